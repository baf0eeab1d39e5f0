"""What is known of a model. LAW: finds out, never decides."""
