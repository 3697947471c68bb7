"""Pictures by the million on many machines: lists cut into shards, each predicted whole by one of many workers."""

SHARD_SIZE = 500  # pictures: some seconds of work, which is what a killed worker costs
