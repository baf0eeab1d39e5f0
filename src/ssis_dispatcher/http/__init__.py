"""HTTP/1.1 on sockets. This folder knows no models, and nothing of ours but `errors`."""
