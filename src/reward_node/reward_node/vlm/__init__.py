"""Vision-language models as instruments: what tokens a video becomes, and exact, cheap questions about each of its prefixes."""
