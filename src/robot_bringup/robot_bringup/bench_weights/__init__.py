"""`make bench-weights`: how long weights take from one process to another, what it costs, and what a bad network does to it.

Role: `channels` are the ways (ours, one DDS message, gRPC as LeRobot does it, ZeroMQ as agentlace does it), `side` is one end of one in a
process of its own, `network` makes two namespaces with loss between them, `__main__` starts the sides and writes the rows of
results/bench-weights.json. The only place that imports both the learner's and the policy's package: it is neither's.
"""
