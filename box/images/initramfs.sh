# shellcheck shell=bash
# What the recipes of images without a disk share: Debian's cloud kernel, an initramfs made of single files of its packages.
# A recipe sets $debian (packages, unpacked) and $root (the initramfs to be), both below its work directory.
: "${debian:?}" "${root:?}"

unpack() { # PACKAGES, comma-separated: into $debian
    mmdebstrap --quiet --variant=extract --include="linux-image-cloud-amd64,busybox-static,$1" trixie "$debian" "$MIRROR"
    local dir
    for dir in bin sbin lib lib64; do ln -sfn "usr/$dir" "$debian/$dir"; done # unpacked packages only: nobody made these
}

directories() { # MORE...
    local link
    mkdir -p "$root"/{dev,proc,sys,run,tmp,root,usr/bin,usr/lib,usr/lib64,usr/libexec,var} "${@/#/$root/}"
    for link in bin sbin; do ln -s usr/bin "$root/$link"; done
    ln -s bin "$root/usr/sbin"
    ln -s usr/lib "$root/lib"
    ln -s usr/lib64 "$root/lib64"
    ln -s ../run "$root/var/run"
    ln -s ../tmp "$root/var/log"
    chmod 700 "$root/root"
    chmod 1777 "$root/tmp"
    mknod -m 600 "$root/dev/console" c 5 1
}

programs() { # PATHS...: each with the libraries that it asks for; busybox fills in what is missing
    local program library applet
    for program in usr/bin/busybox usr/bin/dash "$@"; do
        cp "$debian/$program" "$root/usr/bin/"
        { chroot "$debian" /lib64/ld-linux-x86-64.so.2 --list "/$program" 2>/dev/null || true; } | # a static program has none
            sed -nE 's,^[^/]*(/[^ ]*).*,\1,p' | while read -r library; do
            [[ -e $root/$library ]] || install -D -m 755 "$debian/$library" "$root/${library/#\/lib/\/usr\/lib}"
        done
    done
    ln -s dash "$root/usr/bin/sh"
    # The real programs win; in busybox's own shell they wouldn't, hence dash.
    chroot "$debian" /usr/bin/busybox --list | while read -r applet; do
        [[ -e $root/usr/bin/$applet ]] || ln -s busybox "$root/usr/bin/$applet"
    done
}

helper() { # DIRECTORY NAME: a static program of our own
    (cd "$1" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o "$root/usr/bin/$2" .)
}

modules() { # NAMES...: those and what they need
    local kernel from to module file target
    kernel=$(basename "$debian"/usr/lib/modules/*)
    from=$debian/usr/lib/modules/$kernel to=$root/usr/lib/modules/$kernel
    depmod -b "$debian" "$kernel"
    mkdir -p "$to"
    for module in "$@"; do
        modprobe -d "$debian" -S "$kernel" --show-depends --ignore-install "$module" | awk '$1 == "insmod" {print $2}'
    done | LC_ALL=C sort -u | while read -r file; do
        # Unpacked: the whole initramfs is compressed once, and the guest's processor has better things to do.
        target=$to/${file##*/modules/"$kernel"/}
        install -D -m 644 "$file" "$target"
        case $target in *.xz) xz -d "$target" ;; esac
    done
    cp "$from"/modules.{builtin,builtin.modinfo,order} "$to/"
    depmod -b "$root" "$kernel"
    rm -f "$to"/modules.{alias,symbols,softdep,devname,order,builtin.modinfo} "$to"/modules.{dep,alias,symbols,builtin,builtin.alias}.bin
}

own_files() { # DIRECTORY
    cp -r "$1/." "$root/"
    ln -s ../libexec/shutdown "$root/usr/bin/shutdown"
    chmod 600 "$root/etc/shadow"
    chmod 755 "$root/init" "$root"/usr/libexec/*
}

initrd() { # FILE: the same bytes every time
    find "$root" -exec touch -h -d @1 {} +
    (cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -o -H newc -R 0:0 --reproducible) | zstd -q -19 --single-thread >"$1"
    chmod 644 "$1"
}

packed_kernel() { # FILE
    install -m 644 "$debian"/boot/vmlinuz-* "$1"
}

# Debian's kernel is an unpacker and an ELF file in zstd; QEMU starts the ELF file directly (PVH), and the guest saves the second that
# unpacking takes under emulation.
unpacked_kernel() { # FILE
    local packed offset
    packed=$(echo "$debian"/boot/vmlinuz-*)
    offset=$(LC_ALL=C grep -obUaP '\x28\xb5\x2f\xfd' "$packed" | head -1 | cut -d: -f1)
    tail -c "+$((offset + 1))" "$packed" | zstd -dcq >"$1" 2>/dev/null || true # the unpacker's own bytes follow the stream
    [[ $(head -c 4 "$1") == $'\x7fELF' ]] || { echo "no ELF kernel in $packed" >&2; exit 1; }
    chmod 644 "$1"
}
