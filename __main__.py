"""honeyDue's production, in the order in which it comes to life."""

import pulumi

from honeydue import providers, settings
from honeydue.cloudflare.edge import Edge, EdgeArgs
from honeydue.cloudflare.ranges import ranges
from honeydue.hetzner.addresses import Addresses, AddressesArgs
from honeydue.hetzner.nodes import Nodes, NodesArgs
from honeydue.images.release import Release, ReleaseArgs, plan
from honeydue.k3s.gates import ClusterReady, ClusterReadyArgs
from honeydue.k3s.pki import Pki, PkiArgs
from honeydue.kubernetes import provider
from honeydue.kubernetes.application import Application, ApplicationArgs
from honeydue.kubernetes.traefik import Traefik, TraefikArgs

s = settings.load()
planned = plan(s)
vendors = providers.connect(hcloud_token=s.hcloud_token, cloudflare_token=s.cloudflare_token)
made = pulumi.ResourceOptions(providers=vendors.all)
cidrs = ranges(vendors.cloudflare)
pki = Pki("cluster", PkiArgs(nodes=[n.name for n in s.cluster.nodes], protect=s.protect), made)
kept = AddressesArgs(cluster=s.cluster, labels=s.labels, protect=s.protect)
addresses = Addresses("addresses", kept, made).nodes
edge = Edge("edge", EdgeArgs(settings=s, addresses=addresses), made)
release = Release("release", ReleaseArgs(settings=s, plan=planned), made)
nodes = Nodes("nodes", NodesArgs(settings=s, addresses=addresses, pki=pki, cidrs=cidrs), made)
up = ClusterReadyArgs(access=nodes.access, server_ids=nodes.server_ids)
ready = ClusterReady("cluster", up, made)
kubernetes = provider.connect("kubernetes", ready.kubeconfig, s.cluster_identifier, ready.gate)
inside = provider.inside(kubernetes, *vendors.all)
Traefik("traefik", TraefikArgs(trusted_ips=cidrs), inside)
Application("honeydue", ApplicationArgs(settings=s, release=release, origin=edge.origin), inside)

pulumi.export("nodes", {n.name: {"ipv4": n.ipv4, "ipv6": n.ipv6} for n in addresses})
pulumi.export("kubeconfig", ready.kubeconfig)
pulumi.export("urls", edge.urls)
pulumi.export("images", release.references)
pulumi.export("release", release.names)
pulumi.export("snapshots", s.snapshots_location)
