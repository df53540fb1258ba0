"""One module a family of models: its `Architecture` values, and what only it needs."""
