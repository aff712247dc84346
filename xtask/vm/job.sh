# Runs the test binaries of /run/tests, each in its package's directory, and says how it went on the last line.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
echo "Linux $(uname -r), cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers)"
failed=0
while read -r directory binary; do
    echo "== $binary"
    (cd "$directory" && "$binary" --test-threads 2) || failed=1
done <<TESTS
@TESTS@
TESTS
echo "x vm: $failed"
echo o >/proc/sysrq-trigger
sleep 60
