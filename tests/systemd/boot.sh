#!/bin/bash
# Boots systemd as the first process of private namespaces, on a root of its own that ends with it.
#
#   boot.sh CGROUP ROOT [SOURCE:TARGET]...
#
# CGROUP is made, ROOT is an empty folder to mount on; each SOURCE is seen at TARGET there, read-only.
# It runs twice: outside, to get into namespaces, and as `boot.sh --inside …` there.
set -eu

if [ "$1" != --inside ]; then
  # To be in a cgroup of one's own first is what makes it the namespace's root.
  mkdir "$1"
  echo $$ >"$1/cgroup.procs"
  exec setpriv --pdeathsig KILL unshare --mount --pid --cgroup --net --ipc --uts --fork --kill-child=SIGKILL \
    --propagation private bash "$0" --inside "$@"
fi
root=$3
shift 3

mount -t tmpfs -o mode=755,size=2g machine "$root"
cd "$root"
mkdir -p usr proc sys dev run tmp root home opt srv var/lib var/log var/cache old
mkdir -p etc/systemd/system etc/systemd/user etc/systemd/journald.conf.d
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$folder"; done
ln -s ../run var/run
mount --bind /usr usr
mount -o remount,bind,ro,nosuid,nodev usr
for name in passwd group nsswitch.conf login.defs ld.so.cache localtime alternatives ssl pam.d security; do
  [ ! -e "/etc/$name" ] || cp -a "/etc/$name" etc/
done
: >etc/machine-id
echo machine >etc/hostname
echo '127.0.0.1 localhost machine' >etc/hosts
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n' >etc/systemd/journald.conf.d/test.conf

# What concerns a machine's hardware, and what would take seconds; nothing is enabled, since the folder is new.
for unit in systemd-{sysctl,modules-load,remount-fs,update-utmp,random-seed,journal-flush}.service \
  systemd-{sysusers,tmpfiles-setup-dev,machine-id-commit,firstboot,udevd,udev-trigger}.service \
  systemd-udevd-{control,kernel}.socket systemd-journald-audit.socket systemd-initctl.socket \
  systemd-ask-password-{console,wall}.path systemd-tmpfiles-clean.timer modprobe@.service \
  dev-hugepages.mount dev-mqueue.mount sys-kernel-{debug,tracing,config}.mount sys-fs-fuse-connections.mount tmp.mount
do
  ln -s /dev/null "etc/systemd/system/$unit"
done
printf '[Unit]\nDescription=All of it\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' \
  >etc/systemd/system/multi-user.target

for bind; do
  mkdir -p ".${bind#*:}"
  mount --bind "${bind%%:*}" ".${bind#*:}"
  mount -o remount,bind,ro ".${bind#*:}"
done

mount -t proc -o nosuid,nodev,noexec proc proc
# Or booting would set the kernel's parameters for the whole machine.
for name in sys sysrq-trigger irq bus fs; do
  [ ! -e "proc/$name" ] || { mount --bind "proc/$name" "proc/$name"
    mount -o remount,bind,ro,nosuid,nodev,noexec "proc/$name"; }
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid,noexec dev dev
for device in null zero full random urandom tty; do
  : >"dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts dev/mqueue
mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755,nosuid,nodev run run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp tmp

pivot_root . old
umount -l /old
rmdir /old
cd /
# As on a machine that was booted: a service's own mounts are slaves of these.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
  setpriv --bounding-set -sys_module,-sys_rawio,-sys_time,-syslog --inh-caps -all \
  /lib/systemd/systemd --system --unit=multi-user.target --show-status=0 --crash-reboot=0
