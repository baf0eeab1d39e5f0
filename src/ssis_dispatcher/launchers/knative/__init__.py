"""Servers as Knative Services on Kubernetes."""
