"""Every key that `k3s server` v1.34 takes in config.yaml: its own flags and the agent's.

Source: k3s-io/k3s pkg/cli/cmds/{server,agent,root,log}.go and docs.k3s.io/cli/server and /agent
(the etcd-s3-retention, node-*-dns, nonroot-devices and reconcile-interval flags came with 1.31 to
1.34). A key that is not here stops K3s with "flag provided but not defined", after an expensive
boot; the rehearsal says so at once. Deprecated and hidden flags are still accepted, as by K3s.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LISTS: Final = _words(
    """
    cluster-cidr service-cidr cluster-dns tls-san disable kube-apiserver-arg etcd-arg
    kube-controller-manager-arg kube-scheduler-arg kube-cloud-controller-manager-arg
    kube-controller-arg kube-cloud-controller-arg kubelet-arg kube-proxy-arg node-label
    node-taint node-ip node-external-ip node-internal-dns node-external-dns
    airgap-extra-registry
    """
)
"""May be given several times; a single string may hold several, separated by commas."""

SWITCHES: Final = _words(
    """
    debug alsologtostderr tls-san-security flannel-ipv6-masq flannel-external-ip cluster-init
    cluster-reset kine-tls etcd-expose-metrics etcd-disable-snapshots etcd-snapshot-compress
    etcd-s3 etcd-s3-skip-ssl-verify etcd-s3-insecure disable-scheduler disable-cloud-controller
    disable-kube-proxy disable-network-policy disable-helm-controller disable-apiserver
    disable-controller-manager disable-etcd disable-agent embedded-registry supervisor-metrics
    with-node-id docker disable-default-registry-endpoint nonroot-devices
    protect-kernel-defaults secrets-encryption enable-pprof rootless prefer-bundled-bin selinux
    disable-selinux no-flannel disable-apiserver-lb
    """
)

VALUES: Final = _words(
    """
    config v vmodule log bind-address https-listen-port advertise-address advertise-port
    data-dir service-node-port-range cluster-domain flannel-backend egress-selector-mode
    servicelb-namespace write-kubeconfig write-kubeconfig-mode write-kubeconfig-group
    helm-job-image token token-file agent-token agent-token-file server
    cluster-reset-restore-path datastore-endpoint datastore-cafile datastore-certfile
    datastore-keyfile etcd-snapshot-name etcd-snapshot-schedule-cron etcd-snapshot-retention
    etcd-snapshot-reconcile-interval etcd-snapshot-dir etcd-s3-endpoint etcd-s3-endpoint-ca
    etcd-s3-access-key etcd-s3-secret-key etcd-s3-session-token etcd-s3-bucket
    etcd-s3-bucket-lookup-type etcd-s3-region etcd-s3-folder etcd-s3-retention etcd-s3-proxy
    etcd-s3-config-secret etcd-s3-timeout default-local-storage-path node-name
    image-credential-provider-bin-dir image-credential-provider-config
    container-runtime-endpoint image-service-endpoint default-runtime pause-image snapshotter
    private-registry system-default-registry resolv-conf flannel-iface flannel-conf
    flannel-cni-conf vpn-auth vpn-auth-file secrets-encryption-provider lb-server-port
    cluster-secret
    """
)

KNOWN: Final = LISTS | SWITCHES | VALUES

SHORT: Final = {"t": "token", "s": "server", "d": "data-dir", "o": "write-kubeconfig"} | {
    "i": "node-ip",
    "l": "log",
    "c": "config",
}

DISABLE_ITEMS: Final = _words(
    """
    coredns servicelb traefik local-storage metrics-server runtimes
    """
)
"""Packaged components; K3s refuses another value of `disable`."""

CLOUD_CONFIG_KEYS: Final = _words(
    """
    allow_public_ssh_keys ansible apk_repos apt apt_pipelining apt_reboot_if_required
    apt_sources apt_update apt_upgrade authkey_hash autoinstall bootcmd byobu_by_default
    ca_certs ca-certs chef chpasswd cloud_config_modules cloud_final_modules cloud_init_modules
    config create_hostname_file device_aliases disable_ec2_metadata disable_root
    disable_root_opts disk_setup drivers fan final_message fqdn fs_setup groups growpart
    grub-dpkg grub_dpkg hostname keyboard landscape launch-index locale locale_configfile lxd
    manage_etc_hosts manage_resolv_conf manual_cache_clean mcollective merge_how merge_type
    migrate mounts mount_default_fields network no_ssh_fingerprints ntp output packages
    package_reboot_if_required package_update package_upgrade password phone_home power_state
    prefer_fqdn_over_hostname preserve_hostname puppet random_seed reporting resize_rootfs
    resolv_conf rh_subscription rpi rsyslog runcmd salt_minion snap spacewalk ssh
    ssh_authorized_keys ssh_deletekeys ssh_fp_console_blacklist ssh_genkeytypes ssh_import_id
    ssh_keys ssh_key_console_blacklist ssh_publish_hostkeys ssh_pwauth ssh_quiet_keygen swap
    system_info timezone ubuntu_advantage ubuntu_pro unverified_modules updates user users
    vendor_data version wireguard write_files yum_repo_dir yum_repos zypper
    """
)
"""Top-level keys of cloud-init's schema; cloud-init itself only warns about another one."""

WRITE_FILES_KEYS: Final = _words(
    """
    path content source owner permissions encoding append defer
    """
)
