# The worker's program with its manual pages, completions and units.
{
  lib,
  fetchurl,
  rustPlatform,
  runCommand,
  installShellFiles,
  glibc,
  util-linux,
}:
let
  root = ../.;
  manifest = lib.importTOML (root + "/Cargo.toml");
  # The terminal of the page: packages of npm, of the versions and digests that the sources name.
  pinned = lib.importJSON (root + "/crates/web-page/terminal.json");
  unpack =
    package:
    let
      archive = fetchurl {
        inherit (package) url;
        hash = package.integrity;
      };
      copy = from: to: "cp package/${from} $out/${to}";
    in
    ''
      tar -xzf ${archive}
      ${lib.concatStringsSep "\n" (lib.mapAttrsToList copy package.files)}
      rm -r package
    '';
  terminal = runCommand "procurator-terminal" { } ''
    mkdir $out
    ${lib.concatMapStrings unpack pinned.packages}
  '';
in
rustPlatform.buildRustPackage {
  pname = "procurator-worker";
  inherit (manifest.workspace.package) version;
  src = lib.cleanSource root;
  cargoLock.lockFile = root + "/Cargo.lock";
  cargoBuildFlags = [
    "--package"
    "worker-bin"
    "--bin"
    "procurator-worker"
  ];
  env.PROCURATOR_XTERM = terminal;
  # Tests want KVM, root and Nix itself: `cargo xtask test` runs them.
  doCheck = false;
  nativeBuildInputs = [ installShellFiles ];
  # The program is linked statically, as elsewhere.
  buildInputs = [ glibc.static ];

  postInstall = ''
    $out/bin/procurator-worker man man
    installManPage man/*.1
    for shell in bash zsh fish; do
      $out/bin/procurator-worker completion $shell >procurator-worker.$shell
    done
    installShellCompletion procurator-worker.{bash,zsh,fish}

    install -D --mode=644 --target-directory=$out/lib/systemd/system \
      packaging/procurator-worker.service packaging/procurator.slice
    substituteInPlace $out/lib/systemd/system/procurator-worker.service \
      --replace-fail /usr/bin/procurator-worker $out/bin/procurator-worker \
      --replace-fail /bin/kill ${util-linux}/bin/kill
    install -D --mode=644 --target-directory=$out/share/procurator-worker \
      packaging/procurator-dashboard.json packaging/procurator.rules.yml
    install -D --mode=644 --target-directory=$out/share/doc/procurator-worker ${terminal}/LICENSE.*
  '';

  meta = {
    description = "Runs the virtual machines of a host";
    license = lib.licenses.asl20;
    mainProgram = "procurator-worker";
    platforms = [ "x86_64-linux" ];
  };
}
