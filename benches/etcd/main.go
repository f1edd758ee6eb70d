// Puts into a cluster of etcd by many clients. It says `ready` when there is a leader; then, for
// each line it reads, a number of seconds, it puts for so long and prints puts per second and syncs
// of all members' logs for each put. It ends with its input, and must never count a put that failed.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Keys that are written again and again, as in the bench beside this.
const keys = 100_000

// The client of the member that leads: no put is passed on to another.
func leader(endpoints []string) string {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, endpoint := range endpoints {
			client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: time.Second})
			if err != nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			status, err := client.Status(ctx, endpoint)
			cancel()
			client.Close()
			if err == nil && status.Leader != 0 && status.Leader == status.Header.MemberId {
				return endpoint
			}
		}
	}
	log.Fatal("no member leads")
	return ""
}

// Syncs of the members' logs so far, as they count them.
func syncs(endpoints []string) float64 {
	total := 0.0
	for _, endpoint := range endpoints {
		answer, err := http.Get(endpoint + "/metrics")
		if err != nil {
			log.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			if count, found := strings.CutPrefix(line, "etcd_disk_wal_fsync_duration_seconds_count "); found {
				number, err := strconv.ParseFloat(count, 64)
				if err != nil {
					log.Fatal(err)
				}
				total += number
			}
		}
	}
	return total
}

func main() {
	addresses := flag.String("endpoints", "", "of all members, by commas")
	clients := flag.Int("clients", 256, "puts in flight")
	connections := flag.Int("connections", 16, "over so many connections")
	bytes := flag.Int("bytes", 100, "of each value")
	flag.Parse()
	endpoints := strings.Split(*addresses, ",")
	to := leader(endpoints)
	var connected []*clientv3.Client
	for range *connections {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{to}, DialTimeout: 5 * time.Second})
		if err != nil {
			log.Fatal(err)
		}
		connected = append(connected, client)
	}
	value := strings.Repeat("v", *bytes)
	var next atomic.Uint64
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		seconds, err := strconv.ParseFloat(strings.TrimSpace(lines.Text()), 64)
		if err != nil {
			log.Fatal(err)
		}
		var done atomic.Uint64
		var all sync.WaitGroup
		before, start := syncs(endpoints), time.Now()
		end := start.Add(time.Duration(seconds * float64(time.Second)))
		for n := range *clients {
			client := connected[n%len(connected)]
			all.Add(1)
			go func() {
				defer all.Done()
				for time.Now().Before(end) {
					key := fmt.Sprintf("key-%06d", next.Add(1)%keys)
					if _, err := client.Put(context.Background(), key, value); err != nil {
						log.Fatal(err)
					}
					done.Add(1)
				}
			}()
		}
		all.Wait()
		passed := time.Since(start).Seconds()
		puts := float64(done.Load())
		fmt.Println(puts/passed, (syncs(endpoints)-before)/puts)
	}
}
