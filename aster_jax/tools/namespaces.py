"""The private root of tiers A1 and A2: what exists at all for model-written code.

A fresh tmpfs becomes the root and only the interpreter's libraries are bound into it,
read-only: no home, no /proc, no other process, no network device. Order matters. As real
root the tree is built first (a 0700 home stays readable as a source) and the user
namespace is entered last; an ordinary user has to enter it first, since only inside does
it hold the right to mount. Whether a tier works is found by doing all of this.
"""

import os
import socket

from aster_jax.tools import linux

# mount, network, IPC, host name
APART = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SYSTEM = (
    "/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib",
    "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime",
)
HOST_NAME = "sandbox"
COVER = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
STAGE = "/tmp"  # any directory that every host has; it is uncovered again by the pivot


def build_root(libraries: tuple[str, ...], hidden: list[str]) -> None:
    """Replaces this mount namespace's root by a tmpfs with read-only libraries.

    `hidden` directories inside them are covered by empty ones; the host's name goes, too.
    """
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", STAGE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m")
    os.mkdir(f"{STAGE}/old")
    linux.call("pivot_root", STAGE, f"{STAGE}/old")
    os.chdir("/")
    for path in prune(SYSTEM + libraries):
        bind(path)
    for path in hidden:
        linux.mount("tmpfs", path, "tmpfs", COVER, "mode=755,size=4k")
    socket.sethostname(HOST_NAME)
    os.makedirs("/dev", exist_ok=True)
    for path in DEVICES:
        bind(path, device=True)
    os.makedirs(choose_scratch(libraries), exist_ok=True)
    linux.call("umount2", "/old", linux.MNT_DETACH)
    os.rmdir("/old")
    # The root itself: sessions mount their scratch over an empty directory.
    linux.mount("none", "/", "", COVER | linux.MS_REMOUNT | linux.MS_BIND)


def prune(paths: tuple[str, ...]) -> list[str]:
    """Parents first, without the paths that another one already contains."""
    kept = []
    for path in sorted(set(map(os.path.normpath, paths))):
        if not any(path.startswith(parent + "/") for parent in kept):
            kept.append(path)
    return kept


def bind(path: str, device: bool = False) -> None:
    """Shows `path` of the old root at the same place, read-only; absent ones are left out."""
    source = "/old" + path
    if os.path.islink(source) and not device:
        link = os.readlink(source)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(link, path)
        # What an absolute or unusual link leads to has to exist as well.
        aim = os.path.normpath(os.path.join(os.path.dirname(path), link))
        if not f"{aim}/".startswith("/usr/"):
            bind(aim)
        return
    if not os.path.exists(source):
        return
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    linux.mount(source, path, "", linux.MS_BIND | linux.MS_REC)
    if not device:
        linux.make_readonly(path)


def choose_scratch(libraries: tuple[str, ...]) -> str:
    """/tmp, unless the interpreter's own libraries are below it and would be hidden."""
    hidden = any(os.path.normpath(path).startswith("/tmp/") for path in libraries)
    return "/scratch" if hidden else "/tmp"


def mount_scratch(path: str, size_mib: int, uid: int, gid: int) -> None:
    """A private directory for one session, in a mount namespace of its own."""
    linux.unshare(linux.CLONE_NEWNS)
    options = f"size={size_mib}m,nr_inodes=4096,mode=700,uid={uid},gid={gid}"
    linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
    os.chdir(path)
