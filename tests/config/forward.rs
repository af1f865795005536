//! `[[forward]]`: what it means, and each mistake.

use epmd_guard::config::{Config, Forward, ListenOn};
use epmd_guard::policy::{ForwardKind, PortRule, Role};

use super::mistakes::{Mistakes, each_yields};
use super::{good, warnings};

fn ip(last: u8) -> ListenOn {
    ListenOn::Ip([192, 0, 2, last].into())
}

/// The ports that registered nodes may have.
fn range_of(config: &Config) -> String {
    match &config.dist.rules.ports {
        PortRule::Registered { range, .. } => range.to_string(),
        PortRule::Listed(ports) => format!("listed {ports}"),
    }
}

#[test]
fn each_table_means_what_it_says_and_what_it_leaves_out_is_as_in_dist() {
    let loaded = good(
        r#"
[cluster]
allow = ["192.0.2.0/24"]
[dist]
listen = ["192.0.2.1"]
backend = "127.0.0.3"
[[forward]]
kind = "dist-tls"
ports = ["9200-9205", 9210]

[[forward]]
kind = "tcp"
ports = 5370
listen = ["*", "::ffff:192.0.2.7"]
backend = ["::1", "127.0.0.2"]
[[forward]]
kind = "dist"
ports = "80"
"#,
    );
    assert_eq!(warnings(&loaded), [""; 0]);
    let config = loaded.config;
    let [tls, tcp, dist] = &config.forwards[..] else { panic!("{:?}", config.forwards) };
    let expected = Forward {
        kind: ForwardKind::DistTls,
        ports: epmd_guard::config::PortSet::from_ranges([9200..=9205, 9210..=9210]),
        listen: vec![ip(1)],
        backend: vec!["127.0.0.3".parse().unwrap()],
        line: 7,
    };
    assert_eq!(*tls, expected);
    assert_eq!((tcp.kind, tcp.ports.to_string().as_str(), tcp.line), (ForwardKind::Tcp, "5370", 11));
    assert_eq!(tcp.listen, [ListenOn::Everywhere, ip(7)]);
    assert_eq!(format!("{:?}", tcp.backend), "[::1, 127.0.0.2]");
    assert_eq!((dist.kind, dist.ports.to_string().as_str()), (ForwardKind::Dist, "80"));
    // epmd does not tell TLS from plain: what is registered at these ports is the forward's.
    assert_eq!(range_of(&config), "1024-4368, 4370-5369, 5371-9199, 9206-9209, 9211-65535");
    for (port, role, backend) in
        [(9204, Role::DistTls, "127.0.0.3"), (5370, Role::Tcp, "::1"), (9206, Role::Dist, "127.0.0.3")]
    {
        let way = config.way_to(port);
        assert_eq!((way.role, way.backend[0].to_string().as_str()), (role, backend), "{port}");
    }
    let rules = config.rules();
    assert_eq!(rules.forwards.kind_at(9210), Some(ForwardKind::DistTls));
    assert_eq!(rules.forwards.kind_at(9206), None);
    assert!(good("").config.forwards.is_empty());
    let default = good("[[forward]]\nkind = \"tcp\"\nports = 5370\n").config;
    assert_eq!(format!("{:?}", default.forwards[0].backend), "[127.0.0.1, ::1]");
}

#[test]
fn forwards_alone_are_something_to_serve() {
    let text = "cluster.allow = [\"192.0.2.2\"]\nepmd.listen = []\ndist.ports = []\n[[forward]]\nkind = \"tcp\"\nports = 5370\n";
    let loaded = good(text);
    assert_eq!(warnings(&loaded), [""; 0]);
    assert_eq!(range_of(&loaded.config), "listed ");
    assert_eq!(loaded.config.forwards[0].listen, [ListenOn::Everywhere]);
    // The embedded epmd may serve loopback, which is no mistake of what is forwarded from there.
    let loopback = "cluster.allow = [\"192.0.2.2\"]\nepmd.listen = [\"192.0.2.1\", \"127.0.0.1\"]\n[[forward]]\nkind = \"tcp\"\nports = 5370\n";
    assert_eq!(warnings(&good(loopback)), [""; 0]);
}

const IN_ONE_TABLE: &Mistakes = &[
    (
        "[forward]\nkind = \"tcp\"",
        &[
            "error [[forward]]: must be a list of tables, is a table (write [[forward]] in double brackets, once for each forward)",
        ],
    ),
    (
        "[[forward]]",
        &[
            "3:1 error [[forward]]: has no kind (write kind = \"dist-tls\")",
            "3:1 error [[forward]]: has no ports (write ports = 9200)",
        ],
    ),
    (
        "[[forward]]\nkind = \"tls\"\nports = 9200\nport = 1",
        &[
            "4:8 error [[forward]] kind: must be one of \"dist\", \"dist-tls\", \"tcp\", is \"tls\"",
            "6:1 error [[forward]] port: is no key: there are kind, ports, listen, backend (did you mean ports?)",
        ],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = \"registered\"",
        &[
            "5:9 error [[forward]] ports: \"registered\" is possible in [dist] ports alone (list ports and ranges",
        ],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = []",
        &[
            "5:9 error [[forward]] ports: is empty: nothing would be forwarded (list the ports, or take the whole table out)",
        ],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = [0, \"9-8\"]",
        &[
            "5:10 error [[forward]] ports: port 0 means any port",
            "5:13 error [[forward]] ports: 9-8 runs backwards (write \"8-9\")",
        ],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = \"20000-30000\"",
        &[
            "5:9 warning [[forward]] ports: 20000-30000 offers whatever listens there on loopback to every peer (list no more",
        ],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = 5370\nlisten = [\"192.0.2.1:5370\"]",
        &["6:11 error [[forward]] listen: \"192.0.2.1:5370\" has a port (the ports are those of this table"],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = 5370\nlisten = []\nbackend = []",
        &[
            "6:10 error [[forward]] listen: is empty: nothing could reach the ports (leave the key out",
            "7:11 error [[forward]] backend: names no address",
        ],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = 5370\nbackend = \"192.0.2.9\"",
        &[
            "6:11 warning [[forward]] backend: \"192.0.2.9\" is not loopback, so it can be reached around the guard",
        ],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = 5370\nlisten = [\"127.0.0.1\"]",
        &[
            "6:10 error [[forward]] backend: the guard listens at 127.0.0.1, so that it would dial itself (listen where peers reach",
        ],
    ),
];

const BESIDE_OTHERS: &Mistakes = &[
    (
        "[[forward]]\nkind = \"tcp\"\nports = 4369",
        &["5:9 error [[forward]] ports: 4369 is a port of [epmd] listen"],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = \"4360-4370\"\n[epmd]\nlisten = [\"*:5000\"]",
        &["5:9 error [[forward]] ports: 4369 is a port of epmd, which peers would reach unchecked"],
    ),
    (
        "[[forward]]\nkind = \"tcp\"\nports = 9568\n[admin]\nlisten = [\"127.0.0.1:9568\"]",
        &["5:9 error [[forward]] ports: 9568 is a port of [admin] listen, which peers would reach"],
    ),
    (
        "[[forward]]\nkind = \"dist-tls\"\nports = [8000, \"9100-9200\"]\n[dist]\nports = [\"9150-9160\", 9300]",
        &["5:16 error [[forward]] ports: 9150 is in [dist] ports too: a port is one of the two"],
    ),
    (
        "[[forward]]\nkind = \"dist-tls\"\nports = 9100\n[dist]\noutside = \"9090-9100\"",
        &["5:9 error [[forward]] ports: 9100 is in [dist] outside too: a port is one of the two"],
    ),
    (
        "[[forward]]\nkind = \"dist-tls\"\nports = \"9100-9110\"\n[[forward]]\nkind = \"tcp\"\nports = [9000, 9105]",
        &["8:16 error [[forward]] ports: 9105 is a port of the [[forward]] in line 3 too"],
    ),
    (
        "[[forward]]\nkind = \"dist-tls\"\nports = \"9100-9110\"\n[dist]\nrange = \"9101-9109\"",
        &[
            "7:9 error [dist] range: 9101-9109 is forwarded by [[forward]]: no other node could be reached (leave the key out",
        ],
    ),
    (
        "[dist]\nlisten = [\"192.0.2.1\"]\n[[forward]]\nkind = \"tcp\"\nports = 5370\nbackend = \"192.0.2.1\"",
        &[
            "8:11 error [[forward]] backend: the guard listens at 192.0.2.1, so that it would dial itself (the guard listens there by [dist] listen",
            "8:11 warning [[forward]] backend: \"192.0.2.1\" is not loopback",
        ],
    ),
];

#[test]
fn mistakes_in_a_table_are_found() {
    each_yields(IN_ONE_TABLE);
}

#[test]
fn a_port_that_something_else_has_is_refused_and_both_places_are_named() {
    each_yields(BESIDE_OTHERS);
}

#[test]
fn more_tables_than_are_possible_are_refused() {
    let table = |port: usize| format!("[[forward]]\nkind = \"tcp\"\nports = {port}\n");
    let text: String = (10_000..10_101).map(table).collect();
    let expected =
        "303:1 error [[forward]]: is one more than the 100 that are possible (one table can list many";
    let leaked: &'static str = text.leak();
    let message: &'static [&'static str] = Box::leak(Box::new([expected]));
    each_yields(&[(leaked, message)]);
}
