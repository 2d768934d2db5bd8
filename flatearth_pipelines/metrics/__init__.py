"""What a monitoring system wants to know, read from Postgres at the moment it asks: `flatearth metrics`."""
