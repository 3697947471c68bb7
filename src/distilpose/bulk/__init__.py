"""Images by the million on many machines: lists cut into shards, each predicted whole by one of many workers."""
