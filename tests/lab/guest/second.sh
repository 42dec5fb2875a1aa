#!/bin/sh
# From here on the emulated machine is its Debian: file systems, network, ssh server.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /run; mkdir -p /run/sshd
hostname edge-machine
ip link set lo up; ip address add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
echo 1 > /proc/sys/kernel/printk; echo 1 > /proc/sys/kernel/sysrq
if [ -d /etc/edge/fake/sys ]; then                                       # laid over the real one
  mkdir -p /run/sys; mount -t overlay -o lowerdir=/etc/edge/fake/sys:/sys fakesys /run/sys; mount --bind /run/sys /sys
fi
while :; do /usr/sbin/sshd -D -e -f /etc/edge/sshd_config; sleep 1; done
