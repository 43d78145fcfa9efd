package smp_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"flashline/smp"
)

// A device that answers everything with success stands in for a board in
// serial recovery; on a station the line is a serial port.
func ExampleClient_Probe() {
	line, board := net.Pipe()
	go func() {
		var d smp.Decoder
		buf := make([]byte, 256)
		for {
			n, err := board.Read(buf)
			if err != nil {
				return
			}
			d.Feed(buf[:n], func(msg []byte) {
				h, _, err := smp.ParseMessage(msg)
				if err != nil {
					return
				}
				payload := []byte("\xbf\x62rc\x00\xff") // {"rc": 0}
				h.Op, h.Length = h.Op+1, uint16(len(payload))
				board.Write(smp.AppendFrame(nil, append(h.Append(nil), payload...)))
			}, nil)
		}
	}()

	c := smp.NewClient(line, smp.Options{Baud: 115200})
	defer c.Close()
	target, err := c.Probe(context.Background(), time.Second)
	fmt.Println(target, err)
	// Output: bootloader <nil>
}
