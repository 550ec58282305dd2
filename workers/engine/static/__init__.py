"""Static models: a table of token vectors, and the encoder that averages its rows."""
