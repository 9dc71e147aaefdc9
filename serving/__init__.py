"""A server of models: an HTTP API, live frames over WebSockets, and a page."""
