//! Handshakes as they went over the wire between real nodes, for the tests.
//!
//! Taken from loopback: OTP 25.2.3 with itself, and a synthetic initiator of version 5 with OTP 27.3 and 29,
//! since no version of OTP that is at hand says `n`. The cookie is `secret`.

use super::handshake::{Phase, Speaker};

/// One handshake.
pub(super) struct Recorded {
    /// What happens in it.
    pub(super) what: &'static str,
    /// Each message with its length, in hexadecimal, in the order of the turns.
    pub(super) turns: &'static [(Speaker, &'static str)],
    /// How the frames begin that each side sent behind its last message, glued to it or not.
    pub(super) behind: [(Speaker, &'static str); 2],
    /// Where it ends.
    pub(super) end: Phase,
}

const A: Speaker = Speaker::Initiator;
const B: Speaker = Speaker::Acceptor;

/// The handshakes.
pub(super) const RECORDED: [Recorded; 10] = [
    Recorded {
        what: "a visible node",
        turns: &[
            (A, "001a4e0000000d07df7fbda5bf9eff000b61403132372e302e302e32"),
            (B, "0003736f6b"),
            (B, "001e4e0000000d07df7fbdbd47fad9adcee3f3000b62403132372e302e302e31"),
            (A, "001572bb56c90a0587f9773954dda9602a941bfdcb31b9"),
            (B, "001161d2d6a6d3272349c10d2aaa3d0b8c4e44"),
        ],
        behind: [(A, "0000004d83440068"), (B, "000000568344048f")],
        end: Phase::Up,
    },
    Recorded {
        what: "a hidden node",
        turns: &[
            (A, "001a4e0000000d07df7fbcf9b105be000b68403132372e302e302e32"),
            (B, "0003736f6b"),
            (B, "001e4e0000000d07df7fbda11e1e29eb2e6824000b62403132372e302e302e31"),
            (A, "0015728a680200195450267bad40a673c7f2b4ac1bdfc0"),
            (B, "001161ac2234d16a061c39a221f5d5e1bf7000"),
        ],
        behind: [(A, "0000004d83440068"), (B, "0000006e834404df")],
        end: Phase::Up,
    },
    Recorded {
        what: "a node that asks for a name",
        turns: &[
            (A, "00184e0000000f07df7fbc0000000000093132372e302e302e32"),
            (B, "0024736e616d65643a0017335451554f48594f445a4a5250403132372e302e302e32f71550e5"),
            (B, "001e4e0000000f07df7fbca171afccda2c1bd9000b62403132372e302e302e31"),
            (A, "001572b4c2cf2db98c5de26d13a913cbd2a55410416f4b"),
            (B, "001161456224bd9066b6d9ee9c591594b730fe"),
        ],
        behind: [(A, ""), (B, "")],
        end: Phase::Up,
    },
    Recorded {
        what: "a node whose old connection is still there",
        turns: &[
            (A, "001a4e0000000d07df7fbd22b8cc7d000b61403132372e302e302e32"),
            (B, "000673616c697665"),
            (A, "00057374727565"),
            (B, "001e4e0000000d07df7fbddfcc5632db4106ae000b62403132372e302e302e31"),
            (A, "001572bbe480da97cd25136acac6d8f799c2b552034fdc"),
            (B, "00116191097dcd0237632c187f661aeec1fd21"),
        ],
        behind: [(A, "0000004d83440068"), (B, "000000568344048f")],
        end: Phase::Up,
    },
    Recorded {
        what: "both dial, and the higher name goes on",
        turns: &[
            (A, "001a4e0000000d07df7fbd9abe82f7000b6d403132372e302e302e32"),
            (B, "0010736f6b5f73696d756c74616e656f7573"),
            (B, "001e4e0000000d07df7fbd84ea3c5d12a2882f000b63403132372e302e302e31"),
            (A, "001572662f1c2af4e21ffa439ac14e6921e5d5ebe8826c"),
            (B, "0011619867dcb04ec9cc877de8b20e3650950f"),
        ],
        behind: [(A, "0000004d83440068"), (B, "0000004d83440068")],
        end: Phase::Up,
    },
    Recorded {
        what: "both dial, and the lower name gives way",
        turns: &[(A, "001a4e0000000d07df7fbd9550d499000b6d403132372e302e302e32"), (B, "0004736e6f6b")],
        behind: [(A, ""), (B, "")],
        end: Phase::Refused,
    },
    Recorded {
        what: "a name that net_kernel:allow/1 does not list",
        turns: &[
            (A, "001a4e0000000d07df7fbd3adcf7c2000b61403132372e302e302e32"),
            (B, "000c736e6f745f616c6c6f776564"),
        ],
        behind: [(A, ""), (B, "")],
        end: Phase::Refused,
    },
    Recorded {
        what: "another cookie: the acceptor closes after the reply",
        turns: &[
            (A, "001a4e0000000d07df7fbd7c9bcbf5000b61403132372e302e302e32"),
            (B, "0003736f6b"),
            (B, "001e4e0000000d07df7fbda0293b91fa745118000b62403132372e302e302e31"),
            (A, "001572b9695eb116664714a117bd0080f3dd47ad154cee"),
        ],
        behind: [(A, ""), (B, "")],
        end: Phase::Ack,
    },
    Recorded {
        what: "version 5 to OTP 27",
        turns: &[
            (A, "00126e000507df7fbd76403132372e302e302e32"),
            (B, "0003736f6b"),
            (B, "001e4e0000000d07df7fbded5e443867ff7107000b62403132372e302e302e31"),
            (A, "0009630000000d01020304"),
            (A, "0015720a0b0c0d2aba3e8d6a999ed380db1453d08a9925"),
            (B, "001161d4f3131bb692102d751a77284856cd90"),
        ],
        behind: [(A, ""), (B, "")],
        end: Phase::Up,
    },
    Recorded {
        what: "version 5 to OTP 29, with flags missing in the complement",
        turns: &[
            (A, "00126e000507df7fbd76403132372e302e302e32"),
            (B, "0003736f6b"),
            (B, "001e4e0000006d07df7fbdb7d9e04c775cb632000b62403132372e302e302e31"),
            (A, "0009630000000001020304"),
            (A, "0015720a0b0c0d02ac032c57f6056f69bb664ea42114aa"),
            (B, "000c736e6f745f616c6c6f776564"),
        ],
        behind: [(A, ""), (B, "")],
        end: Phase::Refused,
    },
];

impl Recorded {
    /// The handshake that is described so.
    pub(super) fn of(what: &str) -> &'static Self {
        RECORDED.iter().find(|recorded| recorded.what.starts_with(what)).unwrap()
    }

    /// All messages in the order of the turns.
    pub(super) fn messages(&self) -> Vec<(Speaker, Vec<u8>)> {
        self.turns.iter().map(|(speaker, message)| (*speaker, bytes(message))).collect()
    }

    /// The body of one message.
    pub(super) fn body(&self, at: usize) -> Vec<u8> {
        bytes(self.turns[at].1).split_off(2)
    }
}

/// What a hexadecimal text stands for.
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}
