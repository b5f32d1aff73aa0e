"""One small reader for each ``model_type``; the table in `reading` lists them."""
