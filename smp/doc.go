// Package smp speaks the Simple Management Protocol (SMP, MCUmgr) over a
// byte stream: to MCUboot's serial recovery and to Zephyr's SMP server.
//
// Its secret is the wire: how requests and answers are framed on a console
// line that also carries log text, how an answer is told from a late or a
// doubled one, and how an image is moved without ever losing the place. It
// knows no pins, no ports and no image format; bytes go in and bytes come
// out, so anything with Read, Write and Close will do as a line.
//
// A [Client] owns its line. Every request ends in an answer or in one of four
// typed errors: [*TimeoutError] (silence), [*ServerError] (the device said
// no), [*ProtocolError] (the device talked nonsense) and [*PortError] (the
// line itself broke). Silence is by far the most common: MCUboot answers no
// malformed, oversized or damaged request at all.
package smp
