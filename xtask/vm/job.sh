# Runs test binaries in their packages' directories, each test in a process of its own as nextest does, and says how it went on the last line.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
echo "Linux $(uname -r), cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers)"
failed=0
while read -r directory binary; do
    echo "== $(basename "$binary")"
    cd "$directory" || exit
    "$binary" --list --format terse >/run/list || failed=1
    for name in $(sed -n 's/: test$//p' /run/list); do
        if "$binary" --exact "$name" --nocapture >/run/output 2>&1 </dev/null; then
            echo "PASS $name"
        else
            echo "FAIL $name"
            cat /run/output
            failed=1
        fi
    done
done <<TESTS
@TESTS@
TESTS
echo "x vm: $failed"
echo o >/proc/sysrq-trigger
sleep 60
