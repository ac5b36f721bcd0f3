"""The state of an agent's world: objects, SQLite databases and folders, and the changes in them."""
