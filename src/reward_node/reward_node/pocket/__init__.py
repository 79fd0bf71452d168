"""The pocket VLM: a small pretrained language model that sees through the robot's own vision encoder, for machines without a GPU."""
