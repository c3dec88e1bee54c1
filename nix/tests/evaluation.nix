# What must hold of the module, its settings and the images, as a set of booleans by name. `lib` is nixpkgs' or the stand-in.
{ lib }:
let
  pkgs = import ./stand-in/pkgs.nix { inherit lib; };
  package = {
    type = "derivation";
    name = "worker";
    outPath = "/store/worker";
  };
  evaluate =
    modules:
    lib.evalModules {
      modules = [ ./stand-in/options.nix ] ++ modules;
      specialArgs = { inherit pkgs; modulesPath = ./stand-in; };
    };

  worker =
    service:
    (evaluate [
      ../module.nix
      { services.procurator-worker = { enable = true; inherit package; } // service; }
    ]).config;
  fileOf = config: config.environment.etc."procurator/worker.toml".source.value;
  settings = settings: fileOf (worker { inherit settings; });
  refuses = value: !(builtins.tryEval (builtins.deepSeq value true)).success;

  vms = [ { id = "web-1"; hash = "sha256-x"; store_path = "/nix/store/x-image"; } ];
  listed = worker { inherit vms; };

  image =
    arguments:
    import ../vm-image.nix (
      {
        inherit pkgs;
        evaluate = { modules, ... }: evaluate (modules ++ [ built ]);
      }
      // arguments
    );
  built = {
    system.build = {
      toplevel = "/store/system";
      kernel = "/store/kernel";
      initialRamdisk = "/store/initrd";
    };
  };
  plain = image { modules = [ { services.openssh.enable = true; boot.kernelParams = [ "quiet" ]; } ]; };
  ext4 = image { rootFileSystem = "ext4"; };
  flake = (import ../../flake.nix).outputs {
    self = null;
    nixpkgs.legacyPackages.x86_64-linux = pkgs;
  };
  # What would be built of the worker's package, with what is fetched for it as names.
  built-package = import ../package.nix {
    lib = {
      importTOML = file: builtins.fromTOML (builtins.readFile file);
      importJSON = file: builtins.fromJSON (builtins.readFile file);
      cleanSource = path: path;
      concatMapStrings = function: list: builtins.concatStringsSep "" (map function list);
      mapAttrsToList = function: set: map (name: function name set.${name}) (builtins.attrNames set);
      inherit (builtins) concatStringsSep;
      licenses.asl20 = "apache";
    } // lib;
    fetchurl = { url, hash }: "/store/${hash}";
    rustPlatform.buildRustPackage = attributes: attributes;
    runCommand = name: _: script: { inherit script; outPath = "/store/${name}"; };
    installShellFiles = "/store/install-shell-files";
    glibc.static = "/store/glibc";
    util-linux = "/store/util-linux";
  };
  terminal = builtins.fromJSON (builtins.readFile ../../crates/web-page/terminal.json);
  contains = part: text: builtins.replaceStrings [ part ] [ "" ] text != text;
  larger = image { vmConfig.memory.hugepages = true; memoryBytes = 2147483648; };
in
{
  nothing-set-is-nothing-written = settings { } == { };
  set-keys-are-written-and-no-others =
    settings { stop_timeout_seconds = 60; network.subnet = "10.42.0.0/16"; network.nat = null; } == {
      stop_timeout_seconds = 60;
      network.subnet = "10.42.0.0/16";
    };
  a-ratio-is-a-number-or-a-word =
    settings { limits.memory_overcommit_ratio = "off"; } == { limits.memory_overcommit_ratio = "off"; }
    && settings { limits.memory_overcommit_ratio = 1.5; } == { limits.memory_overcommit_ratio = 1.5; }
    && refuses (settings { limits.memory_overcommit_ratio = "none"; });
  networks-have-names-of-their-own =
    settings { networks.storage = { bridge = "br-storage"; subnet = "10.101.0.0/16"; }; } == {
      networks.storage = { bridge = "br-storage"; subnet = "10.101.0.0/16"; };
    };
  lists-are-lists = settings { network.host_services = [ "tcp/8080" ]; } == { network.host_services = [ "tcp/8080" ]; };
  the-page-has-an-address =
    let
      web = {
        listen = "0.0.0.0:7444";
        certificate = "/etc/procurator/page.pem";
        key = "/etc/procurator/page.key";
        token_file = "/run/credentials/page.token";
        read_only = true;
      };
    in
    settings { inherit web; } == { inherit web; }
    && refuses (settings { web.listen = "everywhere"; })
    && refuses (settings { web.read_only = "yes"; })
    && refuses (settings { web.tokenfile = "/x"; });
  images-are-fetched-and-deleted-again =
    settings { fetch = { caches = [ "https://cache.example" ]; unused_days = 7; min_free_gib = 5; }; } == {
      fetch = { caches = [ "https://cache.example" ]; unused_days = 7; min_free_gib = 5; };
    }
    && refuses (settings { fetch.unused_days = 0 - 1; });
  an-unknown-key-is-refused = refuses (settings { brigde = "x"; }) && refuses (settings { network.brigde = "x"; });
  a-wrong-type-is-refused = refuses (settings { auto_restart = 1; });
  a-number-out-of-range-is-refused = refuses (settings { stop_timeout_seconds = 0; });
  a-wrong-form-is-refused =
    refuses (settings { network.subnet = "ten"; })
    && refuses (settings { network.host_services = [ "8080" ]; })
    && refuses (settings { state_dir = "relative"; });

  the-worker-runs-as-its-own-unit =
    listed.systemd.packages == [ package ]
    && listed.systemd.services.procurator-worker.wantedBy == [ "multi-user.target" ]
    && !(listed.systemd.services.procurator-worker ? script);
  listed-vms-are-a-file-that-the-settings-name =
    fileOf listed == { assignments = "/etc/procurator/vms.json"; }
    && listed.environment.etc."procurator/vms.json".source.value == { inherit vms; };
  another-file-can-be-named =
    fileOf (worker { inherit vms; settings.assignments = "/srv/vms.json"; }) == { assignments = "/srv/vms.json"; };
  removals-are-allowed-by-word =
    (worker { vms = [ ]; allowRemovals = true; }).environment.etc."procurator/vms.json".source.value == {
      vms = [ ];
      allow_removals = true;
    };
  without-the-service-nothing-is-set = (worker { enable = false; }).environment.etc == { };

  the-flakes-module-brings-the-package =
    (evaluate [ flake.nixosModules.default { services.procurator-worker.enable = true; } ]).config.systemd.packages
    == [ flake.packages.x86_64-linux.default ];
  the-package-has-the-pages-terminal =
    builtins.all (
      package:
      contains "/store/${package.integrity}" built-package.env.PROCURATOR_XTERM.script
      && builtins.all (file: contains file built-package.env.PROCURATOR_XTERM.script) (builtins.attrValues package.files)
    ) terminal.packages;
  the-flake-makes-images =
    (flake.lib.mkVmImage { evaluate = { modules, ... }: evaluate (modules ++ [ built ]); }).name == "vm-image";

  an-image-boots-its-closure =
    plain.description.payload.kernel == "vmlinux"
    && plain.description.payload.initramfs == "initrd"
    && builtins.all (word: builtins.elem word (builtins.split " " plain.description.payload.cmdline)) [
      "init=/store/system/init"
      "console=ttyS0"
      "panic=-1"
      "quiet"
    ];
  a-closure-is-shared-and-var-is-a-volume =
    map (disk: disk.readonly) plain.description.disks == [ true ]
    && plain.description.procurator.disks == [ { id = "var"; size = 4294967296; } ]
    && plain.config.fileSystems."/nix/store".fsType == "erofs"
    && plain.config.fileSystems."/var".device == "/dev/vdb"
    && builtins.elem "erofs" plain.config.boot.initrd.availableKernelModules;
  or-everything-is-a-volume =
    ext4.description.procurator.disks == [ { id = "root"; size = 4294967296; } ]
    && ext4.config.fileSystems."/".fsType == "ext4"
    && !(ext4.config.fileSystems ? "/nix/store");
  a-description-is-merged = larger.description.memory == { hugepages = true; size = 2147483648; };
  the-guest-has-drivers-for-what-the-machine-has = builtins.all (name: builtins.elem name plain.config.boot.kernelModules) [
    "button"
    "virtio_balloon"
    "virtio_net"
    "vmgenid"
    "vmw_vsock_virtio_transport"
    "pvpanic-mmio"
  ];
  another-file-system-is-refused = refuses (image { rootFileSystem = "btrfs"; }).description;
}
