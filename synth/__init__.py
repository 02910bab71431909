"""Training pairs for embedding and reranking models: passages in, query–passage pairs in Parquet shards out."""
