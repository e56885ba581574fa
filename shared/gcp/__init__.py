"""What the ports are on Google Cloud: Firestore, Cloud Storage and Pub/Sub.

The files mirror those of `shared.embedded`, and one contract suite runs over both. A module imports
one Google SDK at most, and `shared.wiring` imports a module only when its backend is chosen.
"""
