# Sourced: $python311 becomes a CPython 3.11 of this machine, whose standard library and headers serve Windows too.

for candidate in python3.11 python3 /usr/bin/python3.11; do
    python311=$("$candidate" -c 'import sys; sys.version_info[:2] == (3, 11) and print(sys.executable)' 2>/dev/null || true)
    [ -z "$python311" ] || break
done
if [ -z "$python311" ]; then
    echo "CPython 3.11 is needed. On Debian 12: apt-get install python3.11-dev python3.11-venv" >&2
    exit 1
fi
