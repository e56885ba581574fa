"""The ports kept on one machine: SQLite, files, and a queue that pushes as Pub/Sub does."""
