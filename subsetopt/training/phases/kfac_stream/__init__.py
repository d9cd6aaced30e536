"""kfac-stream: EKFAC steps on fresh mini-batches."""
