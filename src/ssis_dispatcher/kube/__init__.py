"""The Kubernetes API: a client, local copies of what it has, and the election of a leader. Knows no models and no servers."""
