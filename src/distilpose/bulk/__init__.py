"""Images by the million on many machines: lists cut into shards, each predicted whole by one of many workers."""

SHARD_SIZE = 500  # images: some seconds of work, which is what a killed worker costs
