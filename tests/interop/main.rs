//! Nodes of other releases of OTP and this machine's, through a guard on each host: run on demand by `make interop`,
//! not by `cargo test`.
//!
//! [`checks`] has what is tried with each release in each shape, [`once`] what one try with each release shows. A
//! check that is added there gets its tests by its name in a list below.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared with the other tests")]
mod support;

mod checks;
mod once;
mod pair;

/// A test for each check, with one release in one shape.
macro_rules! tests {
    ($checks:ident, $release:ident, $shape:ident, [$($check:ident),+ $(,)?]) => {
        use crate::pair::{Pair, Release, Shape};
        $(
            #[test]
            fn $check() {
                crate::$checks::$check(&Pair::new(Release::$release, Shape::$shape));
            }
        )+
    };
}

/// The tests of each release.
macro_rules! releases {
    (in_each_shape: $each:tt, crossed: $crossed:tt, once: $once:tt $(,)?) => {
        releases!(@ otp27, Otp27, $each, $crossed, $once);
        releases!(@ otp29, Otp29, $each, $crossed, $once);
    };
    (@ $module:ident, $release:ident, $each:tt, $crossed:tt, $once:tt) => {
        mod $module {
            mod front {
                tests!(checks, $release, Front, $each);
            }
            mod embedded {
                tests!(checks, $release, Embedded, $each);
            }
            mod single_port {
                tests!(checks, $release, SinglePort, $each);
            }
            mod tunnel {
                tests!(checks, $release, Tunnel, $each);
            }
            mod crossed {
                tests!(checks, $release, Crossed, $crossed);
            }
            mod once {
                tests!(once, $release, Front, $once);
            }
        }
    };
}

releases! {
    in_each_shape: [
        nodes_link_and_call_each_other,
        a_node_with_another_cookie_does_not_link,
        a_guard_that_knows_the_cookie_links_nodes_and_keeps_a_wrong_one_from_them,
        nodes_that_connect_to_each_other_at_the_same_time_end_with_one_link,
        a_message_of_8_mib_arrives_whole_and_so_does_its_answer,
        a_hidden_node_that_does_not_listen_links_and_stays_hidden,
        a_node_without_a_name_is_given_one,
    ],
    crossed: [nodes_link_and_call_each_other],
    once: [
        nodes_link_over_ipv6,
        a_guard_tells_what_the_epmd_of_the_release_knows,
        nodes_link_over_tls,
    ],
}
