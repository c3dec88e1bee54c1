# The test images: Nix store paths of the form that the worker runs, and some that it must refuse.
#
# `guest` is a stock kernel and a busybox user land, `next-edition` the same with another content of its disk,
# `everything` the same in a machine with every device, `huge-pages` one whose memory the host has set aside, `shared` one
# with a disk that all its VMs read and none has a copy of, `direct` one whose disk goes past the host's page cache.
# Everything that goes in is an argument and becomes an input of the derivation, so the store path follows from the content. The
# builder also uses the host's shell, `mke2fs`, `debugfs` and `cpio`: it needs Nix's sandbox off, and no network.
{
  kernel, # the kernel image, as its package ships it
  busybox, # a statically linked busybox
  sessions, # JSON list of what `guest` has beside busybox, a server for sessions: where each file is, and where it goes
  programs, # the same for `everything`
  modules, # JSON list of the kernel modules of the initial root file system, in loading order
  toolPath, # where the host's tools are
}:
let
  input = path: builtins.path { inherit path; name = baseNameOf path; };

  build =
    name: script: variables:
    derivation (
      {
        name = "procurator-test-${name}";
        system = builtins.currentSystem;
        builder = "/bin/sh";
        args = [ script ];
        inherit toolPath;
      }
      // variables
    );

  bootable = name: edition: vmConfig: programs:
    build name ./build.sh {
      inherit edition;
      busybox = input busybox;
      kernel = input kernel;
      modules = map input (builtins.fromJSON modules);
      initrdInit = ./initrd-init;
      # A word a file: where it goes, and what it is.
      programs = map (file: "${file.destination}=${input file.source}") programs;
      inherit vmConfig;
      root = ./root;
    };

  # An image that consists of little more than its description.
  broken = name: vmConfig: commands:
    build name ./broken.sh {
      vmConfig = builtins.toJSON vmConfig;
      inherit commands;
    };
in
{
  guest = bootable "guest" "first" ./vm-config.json (builtins.fromJSON sessions);
  next-edition = bootable "next-edition" "next" ./vm-config.json [ ];
  everything = bootable "everything" "first" ./everything.json (builtins.fromJSON programs);
  huge-pages = bootable "huge-pages" "first" ./huge-pages.json [ ];
  direct = bootable "direct" "first" ./direct.json [ ];
  shared = bootable "shared" "first" ./shared.json [ ];

  missing-kernel = broken "missing-kernel" { payload.kernel = "no-such-kernel"; } "";
  damaged-kernel = broken "damaged-kernel" { } "echo this is no kernel >$out/vmlinux";
  directory-kernel = broken "directory-kernel" { } "mkdir $out/vmlinux";
  outside-kernel = broken "outside-kernel" { } "ln -s /etc/passwd $out/vmlinux";
  unknown-key = broken "unknown-key" { memroy.size = 134217728; } "cp ${input kernel} $out/vmlinux";
}
