#!/bin/sh
# Has each client of DHCP in turn set up each of two interfaces, and says in a line what came of it:
#   client NAME on NIC: address=A/P router=R dns=D… search=S mtu=M hostname=H ping=yes name=yes
# First comes what cloud-init has made of its disk, which told it of both.
set -u
nics="eth0 eth1"
# By which the host's name server knows this guest.
own_name=$(cat /etc/hostname)

# What stands behind the word $1 in the file $2.
lines() { sed -n "s/^$1[ =]//p" "$2" 2>/dev/null | tr '\n' ' ' | sed 's/ $//'; }

# $1 client, $2 interface, $3 name servers, $4 domain
report() {
    # Some have the MTU of a route in place of the interface's.
    mtu=$(ip -4 route show default dev "$2" | sed -n 's/.* mtu \([0-9]*\).*/\1/p' | head -n 1)
    address=$(ip -4 -o address show dev "$2" scope global | sed 's/.*inet \([^ ]*\).*/\1/')
    router=$(ip -4 route show default dev "$2" | sed 's/.*via \([^ ]*\).*/\1/' | head -n 1)
    ping=no
    [ -n "$router" ] && ping -c 2 -W 10 -q -I "$2" "$router" >/dev/null 2>&1 && ping=yes
    name=no
    for server in $3; do
        busybox nslookup "$own_name.$4" "$server" >/dev/null 2>&1 && name=yes
        break
    done
    echo "client $1 on $2: address=$address router=$router dns=$3 search=$4 mtu=${mtu:-$(cat "/sys/class/net/$2/mtu")}" \
        "hostname=$(cat /proc/sys/kernel/hostname) ping=$ping name=$name"
}

# Nothing of a client before is left to be taken for that of the next.
clean() {
    rm -f /etc/resolv.conf /etc/hostname /run/told
    : >/etc/resolv.conf
    for each in $nics; do
        ip address flush dev "$each"
        ip route flush dev "$each"
        ip link set "$each" down
        # The device says its MTU, too; a client has to raise this one.
        ip link set "$each" mtu 1300
    done
    hostname localhost
}

# Waits for a default route by $1.
await_route() {
    tries=0
    until ip -4 route show default dev "$1" | grep -q via || [ "$tries" -ge 120 ]; do
        tries=$((tries + 1))
        sleep 1
    done
}

# Of a client that writes /etc/resolv.conf. `domain` is a search list of one, and a name may end with its point.
resolv() {
    domains=$(lines search /etc/resolv.conf)
    domains=${domains:-$(lines domain /etc/resolv.conf)}
    report "$1" "$2" "$(lines nameserver /etc/resolv.conf)" "${domains%.}"
}

try_udhcpc() {
    ip link set "$1" up
    busybox udhcpc -f -n -q -t 10 -i "$1" -O staticroutes -O search -O mtu -s /usr/local/lib/udhcpc.sh >/dev/null 2>&1
    report udhcpc "$1" "$(lines dns /run/told)" "$(lines domain /run/told)"
}

try_dhclient() {
    dhclient -1 -q -pf /run/dhclient.pid -lf "/run/dhclient.$1" "$1"
    resolv dhclient "$1"
    dhclient -x -q -pf /run/dhclient.pid -lf "/run/dhclient.$1" "$1"
}

try_dhcpcd() {
    dhcpcd -4 -q -L -A "$1"
    await_route "$1"
    resolv dhcpcd "$1"
    # It goes by the interface and the version of IP.
    dhcpcd -4 -x "$1" >/dev/null 2>&1
}

try_networkd() {
    # Without the other one: both are on one network.
    printf '[Match]\nName=%s\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n[DHCPv4]\nUseDomains=yes\nUseMTU=yes\n' "$1" \
        >/run/systemd/network/10-try.network
    systemctl start systemd-networkd.service
    await_route "$1"
    lease=/run/systemd/netif/leases/$(cat "/sys/class/net/$1/ifindex")
    # It asks the service that has the host's name to take the one it was told.
    hostname "$(lines HOSTNAME "$lease")"
    report networkd "$1" "$(lines DNS "$lease")" "$(lines DOMAINNAME "$lease")"
    systemctl stop systemd-networkd.socket systemd-networkd.service
    rm /run/systemd/network/10-try.network
}

try_NetworkManager() {
    printf '[main]\nno-auto-default=*\ndns=default\nrc-manager=file\n' >/etc/NetworkManager/conf.d/try.conf
    systemctl start NetworkManager.service
    nmcli connection add type ethernet ifname "$1" con-name try ipv6.method disabled >/dev/null
    nmcli --wait 120 connection up try >/dev/null
    resolv NetworkManager "$1"
    nmcli connection delete try >/dev/null
    systemctl stop NetworkManager.service
}

for nic in $nics; do
    config=$(grep -l "^Name=$nic\$" /run/systemd/network/*cloud-init* /etc/systemd/network/*cloud-init* 2>/dev/null | head -n 1)
    report cloud-init "$nic" "$(lines DNS "$config")" "$(lines Domains "$config")"
done
systemctl stop systemd-networkd.socket systemd-networkd.service
rm -f /run/systemd/network/*cloud-init* /etc/systemd/network/*cloud-init*
for nic in $nics; do
    for client in udhcpc dhclient dhcpcd networkd NetworkManager; do
        clean
        "try_$client" "$nic"
    done
done
echo "clients are done"
