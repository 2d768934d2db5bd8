"""The queues that ours is measured against, as installed from their registries, each at its best setting."""
