"""A real registry and a real builder on loopback: Gitea, BuildKit and buildx."""
