"""honeyDue's production, in the order in which it comes to life."""

import pulumi

from honeydue import images, naming, providers, settings
from honeydue.cloudflare.edge import Edge, EdgeArgs
from honeydue.cloudflare.ranges import ranges
from honeydue.hetzner.addresses import Addresses, AddressesArgs
from honeydue.hetzner.nodes import Nodes, NodesArgs
from honeydue.k3s.gates import ClusterReady, ClusterReadyArgs
from honeydue.k3s.pki import Pki, PkiArgs
from honeydue.kubernetes.application import Application, ApplicationArgs
from honeydue.kubernetes.provider import connect
from honeydue.kubernetes.traefik import Traefik, TraefikArgs

s = settings.load()
vendors = providers.connect(hcloud_token=s.hcloud_token, cloudflare_token=s.cloudflare_token)
made = pulumi.ResourceOptions(providers=vendors.all)
labels = naming.labels(cluster=s.cluster.name, stack=s.stack)

cidrs = ranges(vendors.cloudflare)
pki = Pki("cluster", PkiArgs(nodes=[n.name for n in s.cluster.nodes], protect=s.protect), made)
addresses = Addresses(
    "addresses", AddressesArgs(cluster=s.cluster, labels=labels, protect=s.protect), made
).nodes
edge = Edge("edge", EdgeArgs(settings=s, addresses=addresses), made)
nodes = Nodes(
    "nodes", NodesArgs(settings=s, addresses=addresses, pki=pki, cloudflare_cidrs=cidrs), made
)
ready = ClusterReady(
    "cluster", ClusterReadyArgs(access=nodes.access, server_ids=nodes.server_ids), made
)

cluster = connect(
    "kubernetes",
    kubeconfig=ready.kubeconfig,
    cluster_identifier=naming.cluster_identifier(cluster=s.cluster.name, stack=s.stack),
    ready=ready.gate,
)
inside = pulumi.ResourceOptions(providers=[*vendors.all, cluster])
Traefik("traefik", TraefikArgs(trusted_ips=cidrs), inside)
run = images.references(s.registry, s.images)
Application("honeydue", ApplicationArgs(settings=s, images=run, origin=edge.origin), inside)

pulumi.export("nodes", {n.name: {"ipv4": n.ipv4, "ipv6": n.ipv6} for n in addresses})
pulumi.export("kubeconfig", ready.kubeconfig)
pulumi.export("urls", edge.urls)
pulumi.export("images", run)
