#!/bin/busybox sh
# First program of the emulated machine: loads the drivers of its disk and network, mounts the disk, hands over to second.sh on it.
export PATH=/bin; /bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko"; done < /modules/order
i=0; while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
mount -t ext4 /dev/vda /disk || { echo "no disk"; poweroff -f; }
umount /proc /sys; mount --move /dev /disk/dev
rm -rf /disk/etc/edge; cp -a /edge /disk/etc/edge                       # keys, settings and hardware of this run
[ ! -d /edge/fake ] || (cd /edge/fake; tar cf - $(ls | grep -v -x -e sys -e proc) | tar xf - -C /disk)
exec switch_root /disk /etc/edge/second.sh
