#!/usr/bin/env bash
# Brings one manager from a fresh disk to a running K3s. systemd runs it before every start of K3s,
# so each step looks first and does only what is missing, and a failed step is simply tried again:
#
#   metadata  no pod may read this machine's user_data, which holds the cluster's keys
#   install   K3s's binary, by version and checksum
#   network   waits for the private address and tells flannel which NIC has it
#   join      joins any living peer; founds the cluster only if nobody answers and it is the founder
#
# Settings come from /etc/honeydue/node.env. HONEYDUE_ROOT is a prefix of every path, for tests.
set -euo pipefail

root="${HONEYDUE_ROOT:-}"
# shellcheck source=/dev/null  # written by cloud-init beside this file
. "$root/etc/honeydue/node.env"

tls="$root/var/lib/rancher/k3s/server/tls"
drop_ins="$root/etc/rancher/k3s/config.yaml.d"
metadata_ipv4=169.254.169.254
metadata_ipv6=fe80::a9fe:a9fe # on the public NIC's link; cloud-init asks here first

log() { printf '%s honeydue: %s\n' "$(date -u +%FT%TZ)" "$*"; }
die() {
  log "$*" >&2
  exit 1
}

# --- metadata ------------------------------------------------------------------------------------

# The raw table comes before everything that K3s, flannel and its policy controller write, and
# nobody else uses it; a reboot empties it, and pods come only after K3s. PREROUTING sees pods;
# OUTPUT sees this machine's own processes and pods with hostNetwork. Of those only root's may pass,
# and only until the private NIC is set up (`network`): whatever of the image does that (cloud-init's
# hot-plug, Hetzner's scripts) is root and may ask the service. cloud-init itself has asked before: at
# each boot it has its data before network-online.target, and K3s comes after. Later no one needs it,
# and Traefik, which the internet talks to, is root in the host's network.
block_metadata() {
  drop_metadata PREROUTING
  drop_metadata OUTPUT -m owner ! --uid-owner 0
}

drop_metadata() {
  local chain="$1"
  shift
  insert_rule iptables "$chain" -d "$metadata_ipv4" "$@" -j DROP
  insert_rule ip6tables "$chain" -d "$metadata_ipv6" "$@" -j DROP
}

insert_rule() {
  local tables="$1"
  shift
  "$tables" -w -t raw -C "$@" 2>/dev/null || "$tables" -w -t raw -I "$@"
}

# --- install -------------------------------------------------------------------------------------

install_k3s() {
  local target="$root/usr/local/bin/k3s" download="$root/usr/local/bin/.k3s.download" sum="$K3S_SHA256"
  if [ -n "$sum" ] && [ -x "$target" ] && matches "$target" "$sum"; then return; fi
  if [ -z "$sum" ] && [ -x "$target" ] && "$target" --version | grep -qF "$K3S_VERSION"; then return; fi
  mkdir -p "$(dirname "$target")"
  if [ -z "$sum" ]; then
    # Not pinned: the release's own list guards against a broken download only.
    log "K3s's checksum is not pinned; asking the release for it"
    sum="$(fetch "$K3S_URL/sha256sum-amd64.txt" | awk '$2 == "k3s" { print $1 }')"
    [ "${#sum}" -eq 64 ] || die "the release $K3S_VERSION publishes no sha256 of k3s"
  fi
  log "downloading K3s $K3S_VERSION"
  fetch "$K3S_URL/k3s" >"$download"
  if ! matches "$download" "$sum"; then
    rm -f "$download"
    die "K3s's binary has another sha256 than $sum: not installed"
  fi
  chmod 0755 "$download"
  mv "$download" "$target"
  ln -sf k3s "$root/usr/local/bin/kubectl"
  ln -sf k3s "$root/usr/local/bin/crictl"
}

matches() { printf '%s  %s\n' "$2" "$1" | sha256sum --check --status; }

fetch() { curl --fail --silent --show-error --location --retry 5 --retry-connrefused "$1"; }

# --- network -------------------------------------------------------------------------------------

# Hetzner starts a server before its private NIC is attached, and the NIC's name differs by type.
find_private_interface() {
  local interface="" waited=0
  while :; do
    interface="$(ip -4 -o addr show to "$PRIVATE_IP/32" | awk '{ print $2; exit }')"
    [ -z "$interface" ] || break
    [ "$waited" -lt "$NETWORK_SECONDS" ] || die "no interface has $PRIVATE_IP after $waited s"
    [ $((waited % 30)) -ne 0 ] || log "waiting for the private address $PRIVATE_IP"
    pause 2
    waited=$((waited + 2))
  done
  # Hetzner's private networks carry 1450 bytes; flannel takes its own 50 from what it finds here.
  if [ "$(cat "$root/sys/class/net/$interface/mtu")" -gt 1450 ]; then
    ip link set dev "$interface" mtu 1450
  fi
  mkdir -p "$drop_ins"
  printf 'flannel-iface: %s\n' "$interface" >"$drop_ins/10-network.yaml"
  log "private address $PRIVATE_IP is on $interface"
  drop_metadata OUTPUT # from here on also for root, see above
}

# --- join ----------------------------------------------------------------------------------------

join_or_found() {
  # With etcd's data on disk K3s goes on from there and ignores `server` and `cluster-init`.
  if [ -d "$root/var/lib/rancher/k3s/server/db/etcd/member/wal" ]; then return; fi
  rm -f "$drop_ins/20-join.yaml"
  local tries=0 peer
  while :; do
    if peer="$(living_peer)"; then
      remove_predecessor "$peer"
      mkdir -p "$drop_ins"
      printf 'server: https://%s:6443\ncluster-init: false\n' "$peer" >"$drop_ins/20-join.yaml"
      log "joining the cluster through $peer"
      return
    fi
    tries=$((tries + 1))
    # A rebuilt founder that founds again makes a second cluster: it asks for a whole minute first.
    if [ "$FOUNDER" = true ] && [ "$tries" -ge "$FOUNDING_TRIES" ]; then
      log "no peer answers and this is the designated founder: founding the cluster"
      return
    fi
    [ $((tries % 6)) -ne 1 ] || log "no peer answers yet ($PEERS)"
    pause 5
  done
}

# The first peer whose K3s answers with a certificate of this cluster's CA.
living_peer() {
  local peer
  for peer in $PEERS; do
    if [ "$(ask "$peer" /ping 2>/dev/null)" = pong ]; then
      printf '%s' "$peer"
      return 0
    fi
  done
  return 1
}

ask() {
  local peer="$1" path="$2"
  shift 2
  curl --silent --show-error --fail --max-time 10 --cacert "$tls/server-ca.crt" "$@" "https://$peer:6443$path"
}

# A node that was replaced left its Node object and its etcd member behind, and K3s refuses to join
# under a name that is still a member. Deleting the Node makes K3s drop the member; a finalizer keeps
# the object until that is done.
remove_predecessor() {
  local peer="$1" pair waited=0
  pair="$(short_lived_admin)"
  # shellcheck disable=SC2064  # the folder's name is wanted as it is now
  trap "rm -rf '$pair'" EXIT
  local node="/api/v1/nodes/$NODE_NAME" as_admin=(--cert "$pair/admin.crt" --key "$pair/admin.key")
  while :; do
    case "$(status_of "$peer" "$node" "${as_admin[@]}")" in
      404) break ;;
      200)
        if [ "$waited" -eq 0 ]; then log "removing the predecessor's Node $NODE_NAME"; fi
        ask "$peer" "$node" "${as_admin[@]}" --request DELETE --output /dev/null || true
        ;;
      *) log "$peer does not answer for Nodes yet" ;;
    esac
    [ "$waited" -lt "$MEMBER_SECONDS" ] || die "Node $NODE_NAME is still there after $waited s: has etcd lost its quorum?"
    pause 5
    waited=$((waited + 5))
  done
  waited=0
  while is_member "$peer"; do
    [ "$waited" -lt "$MEMBER_SECONDS" ] || die "etcd still has a member $NODE_NAME-…: remove it with etcdctl on $peer"
    [ "$waited" -ne 0 ] || log "waiting until etcd has dropped the predecessor"
    pause 5
    waited=$((waited + 5))
  done
  drop_lost_claims "$peer" "${as_admin[@]}"
  rm -rf "$pair"
  trap - EXIT
}

# local-path volumes lie on a node's own disk. On a new disk they are gone, and a claim that names one
# keeps its pod (Redis) waiting for ever, on a node that is otherwise well. Without claim and pod the
# StatefulSet makes both anew. A volume whose folder is still here (etcd's data alone was removed, to
# join again after a restore) stays.
drop_lost_claims() {
  local peer="$1" claims namespace claim path
  shift # the rest is how to ask as admin
  if ! claims="$(ask "$peer" /api/v1/persistentvolumes "$@" | python3 -c "$LOCAL_CLAIMS" "$NODE_NAME")"; then
    log "$peer does not list its volumes: claims of lost ones, if any, stay"
    return 0
  fi
  while read -r namespace claim path; do
    if [ -z "$claim" ] || [ -e "$root$path" ]; then continue; fi
    log "dropping the claim $namespace/$claim: its volume was on the predecessor's disk"
    for gone in "persistentvolumeclaims/$claim" "pods?fieldSelector=spec.nodeName%3D$NODE_NAME&gracePeriodSeconds=0"; do
      ask "$peer" "/api/v1/namespaces/$namespace/$gone" "$@" --request DELETE --output /dev/null || true
    done
  done <<<"$claims"
}

# Lines of "namespace claim path" from a list of PersistentVolumes, for those bound to one node.
LOCAL_CLAIMS='
import json, sys
for volume in json.load(sys.stdin)["items"]:
    spec = volume["spec"]
    path = (spec.get("local") or spec.get("hostPath") or {}).get("path")
    terms = spec.get("nodeAffinity", {}).get("required", {}).get("nodeSelectorTerms", [])
    rules = [rule for term in terms for rule in term.get("matchExpressions", [])]
    nodes = [rule["values"] for rule in rules if rule["key"] == "kubernetes.io/hostname"]
    if path and nodes == [[sys.argv[1]]] and "claimRef" in spec:
        print(spec["claimRef"]["namespace"], spec["claimRef"]["name"], path)
'

# K3s names its etcd members <node>-<8 hex digits>. An answer that cannot be had decides nothing:
# K3s itself refuses to join under a name that is taken.
is_member() {
  ask "$1" /db/info --config "$root/etc/honeydue/supervisor.curl" 2>/dev/null |
    grep -qE "\"$NODE_NAME-[0-9a-f]{8}\""
}

status_of() {
  local peer="$1" path="$2"
  shift 2
  curl --silent --max-time 10 --cacert "$tls/server-ca.crt" --output /dev/null --write-out '%{http_code}' "$@" "https://$peer:6443$path" || true
}

# A client certificate of one day in memory-backed /run, signed by the cluster's client CA.
short_lived_admin() {
  local folder
  mkdir -p "$root/run"
  folder="$(mktemp -d "$root/run/honeydue.XXXXXX")"
  {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
      -keyout "$folder/admin.key" -out "$folder/admin.csr" \
      -subj "/O=system:masters/CN=honeydue-boot:$NODE_NAME"
    printf 'extendedKeyUsage = clientAuth\n' >"$folder/extensions"
    openssl x509 -req -in "$folder/admin.csr" -out "$folder/admin.crt" -days 1 \
      -CA "$tls/client-ca.crt" -CAkey "$tls/client-ca.key" -set_serial "0x$(openssl rand -hex 8)" \
      -extfile "$folder/extensions"
  } >"$folder/log" 2>&1 || die "cannot sign a client certificate: $(tail -n 1 "$folder/log")"
  printf '%s' "$folder"
}

# -------------------------------------------------------------------------------------------------

pause() { sleep "${HONEYDUE_PAUSE:-$1}"; }

case "${1:-}" in
  metadata) block_metadata ;;
  install) install_k3s ;;
  network) find_private_interface ;;
  join) join_or_found ;;
  *) die "usage: node.sh metadata|install|network|join" ;;
esac
