"""The recipe: how a text becomes a vector, by the model's own files and the user's settings. One module a part of it."""
