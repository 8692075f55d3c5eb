"""The user's way into a rehearsal: Cloudflare's proxy, Traefik on each node, the pod.

    user ─https→ edge (127.0.0.1:<the home's port>) ─http(s)→ ingress (a node's 127.x address)
         ─http→ the pod's process, or an answer in a pretended pod's place

    http.py      requests and answers, a listener, a pool of connections onwards
    edge.py      Cloudflare: whose records, which origin, which of its errors
    routes.py    Ingress, Service, EndpointSlice, Secret → Traefik's routers and servers; pure
    ingress.py   Traefik of one node: mirrors of its API server's objects, listeners
    way.py       all of it, for the serving process

Played for requests that are asked and answered whole: no streams, no websockets, no trailers, no
caching, no compression. There is no kube-proxy and no pod network: as Traefik does, the ingress
asks a pod at the address that the EndpointSlice has, which the kubelet's stand-in translates.
"""
