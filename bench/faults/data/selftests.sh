#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-only
# Init of the VM that runs the kernel's own selftests. With each fault of /faults in turn it writes
# a line "@@ FAULT PROGRAM STATUS" for each run of a program, and "@@ end" after the last. A run
# that fails is repeated, for some need luck on a busy host. Where there is a /dump.sh, it runs that
# at the end.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ip link set dev lo up
switch=/sys/module/mptcp/parameters/fault
sysctl=/proc/sys/net
dd if=/dev/urandom of=/tmp/sent bs=1024 count=100 2>/dev/null
cat /tmp/sent /tmp/sent >/tmp/twice
head -c 1000 /tmp/sent >/tmp/small
port=10000

# Seconds are the host's, which may be busy.
limited() { timeout -s KILL 40 "$@"; }

quiet() { limited "$@" >/tmp/out 2>&1; }

said() {
	echo "@@ $fault $1 $2"
	[ $2 = 0 ] || failures=$((failures + 1))
}

# With a fault that lets everything wait, all of it would take an hour.
enough() { [ $failures -ge 3 ]; }

# Runs $2... until it succeeds, twice at most; $1 is what is said of it.
twice() {
	enough && return
	name=$1
	shift
	"$@" || "$@"
	said $name $?
}

program() { twice $1 quiet "$@"; }

# Until a line of the sockets that matches $1 is there.
await() {
	for i in $(seq 100); do
		grep -h "$1" /proc/net/tcp /proc/net/tcp6 >/tmp/found && return
		sleep 0.1
	done
	return 1
}

await_listener() { await ":$(printf %04X $port) [0-9A-F:]* 0A "; }

# A file each way over one connection. $1: the address; $2, $3: options of the server and of the
# client; $4: the file; $5: what arrives.
transfer() {
	port=$((port + 1))
	case $1 in *:*) any=:: ;; *) any=0.0.0.0 ;; esac
	limited mptcp_connect -l -p $port -t 30 $2 $any <$4 >/tmp/got 2>/dev/null &
	server=$!
	await_listener
	limited mptcp_connect -p $port -t 30 $3 $1 <$4 >/tmp/back 2>/dev/null
	client=$?
	wait $server && [ $client = 0 ] && cmp -s $5 /tmp/got && cmp -s $5 /tmp/back
}

connect() {
	file=${4-/tmp/sent}
	twice mptcp_connect transfer "$1" "$2" "$3" $file ${5-$file}
}

inq() {
	program mptcp_inq -t mptcp -r mptcp
	program mptcp_inq -t tcp -r mptcp
	program mptcp_inq -t mptcp -r tcp
	program mptcp_inq -6 -t mptcp -r mptcp
}

# The client disconnects and connects again. It may do so before its peer has read all, and then the
# peer fails: so under a name of its own, and more often.
reconnect() {
	enough && return
	for i in 1 2 3 4; do
		transfer $1 "-I 2 -i /tmp/sent" "-I 2 -i /tmp/sent" /tmp/sent /tmp/twice && break
	done
	said mptcp_connect_-I $?
}

# The token of a connection, as its subflow has it and as the connection itself has it.
diag() {
	port=$((port + 1))
	sleep 30 | limited mptcp_connect -l -p $port -t 30 0.0.0.0 >/dev/null 2>&1 &
	await_listener
	sleep 30 | limited mptcp_connect -p $port -t 30 127.0.0.1 >/dev/null 2>&1 &
	await " [0-9A-F]*:$(printf %04X $port) 01 "
	own=$(sed -n '1s/^ *[0-9]*: [0-9A-F]*:\([0-9A-F]*\) .*/\1/p' /tmp/found)
	token=$(limited mptcp_diag -s "127.0.0.1:$((0x$own)) 127.0.0.1:$port" |
		sed -n 's/.*token:[0-9a-f]*(id:0)\/\([0-9a-f]*\)(id:0).*/\1/p')
	limited mptcp_diag -t "$token" >/tmp/out
	grep -q "^token: *0*${token:-none}$" /tmp/out
	status=$?
	killall mptcp_connect sleep
	wait
	return $status
}

for fault in $(cat /faults); do
	[ -e $switch ] && echo $fault >$switch
	failures=0
	echo "@@ $fault on"
	program mptcp_sockopt
	program mptcp_sockopt -6
	inq & # mostly waits
	for address in 127.0.0.1 ::1; do
		connect $address
		connect $address -sTCP
		connect $address "" -sTCP
		connect $address "-m mmap -P saveWithPeek" "-m mmap -P saveAfterPeek"
		# Of more than a kilobyte it takes TCPINQ for wrong.
		cmsg="-c TIMESTAMPNS,TCPINQ"
		connect $address "$cmsg -M 1" "$cmsg -M 2" /tmp/small
		reconnect $address
	done
	connect 127.0.0.1 "-m sendfile -S 65536" "-m sendfile -R 65536"
	connect ::1 "-m splice" "-m splice"
	echo 3 >$sysctl/ipv4/tcp_fastopen
	connect 127.0.0.1 "-o MPTFO" "-o MPTFO"
	connect ::1 "-o MPTFO" "-o MPTFO"
	echo 1 >$sysctl/ipv4/tcp_fastopen
	echo 1 >$sysctl/mptcp/checksum_enabled
	connect 127.0.0.1
	echo 0 >$sysctl/mptcp/checksum_enabled
	wait
	twice mptcp_diag diag
	[ -e $switch ] && echo none >$switch
done
echo "@@ end"
[ -e /dump.sh ] && sh /dump.sh
poweroff -f
