#!/bin/sh
# What udhcpc runs with what it was told.
[ "$1" = bound ] || exit 0
ip address replace "$ip/$mask" dev "$interface"
[ -z "${mtu:-}" ] || ip link set "$interface" mtu "$mtu"
if [ -n "${staticroutes:-}" ]; then
    # Pairs of destination and router; these take the place of the router (RFC 3442).
    set -- $staticroutes
    while [ $# -ge 2 ]; do
        if [ "$2" = 0.0.0.0 ]; then
            ip route replace "$1" dev "$interface"
        else
            ip route replace "$1" via "$2" dev "$interface"
        fi
        shift 2
    done
else
    ip route replace default via "$router" dev "$interface"
fi
[ -z "${hostname:-}" ] || hostname "$hostname"
printf 'dns %s\ndomain %s\n' "${dns:-}" "${search:-${domain:-}}" >/run/told
