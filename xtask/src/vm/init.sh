#!/bin/busybox sh
# The first program of the virtual machine: mounts what a host has, runs the jobs, ends the machine.
/bin/busybox mkdir -p /sbin /usr/bin
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root RUST_BACKTRACE=1 RUST_LIB_BACKTRACE=0
ln -s /bin/busybox /sbin/modprobe
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /root
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tracefs trace /sys/kernel/tracing
ip link set lo up
# When two ask for a module at once, one of them goes on too early.
for module in veth tun bridge 8021q sch_ingress cls_bpf nf_tables nft_chain_nat nft_nat nft_ct nft_hash; do
	modprobe $module
done
# The second serial line has what the jobs print and nothing of the kernel.
stty -F /dev/ttyS1 -opost
exec >/dev/ttyS1 2>&1 </dev/null
echo "vm: up $(uname -r) $(cut -d' ' -f1 /proc/uptime)"
run() {
	echo "vm: begin $1"
	timeout -s KILL "$2" sh -c "$3"
	echo "vm: end $1 $?"
}
@JOBS@
# What was written leaves the serial line before the machine ends.
sleep 0.2
poweroff -f
