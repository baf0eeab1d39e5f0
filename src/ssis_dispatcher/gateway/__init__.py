"""The gateway turns HTTP into requests and back, and decides nothing."""
