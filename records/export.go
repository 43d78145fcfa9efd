package records

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"
)

// CSVSchemaVersion is the first column of every row of [WriteCSV]. It rises
// when a column is added, removed or changes its meaning.
const CSVSchemaVersion = 3

// exported is a record as other programs see it. The names and their order are
// a promise: names are only ever added, at the end of their block.
type exported struct {
	AttemptID       string          `json:"attempt_id"`
	Seq             int64           `json:"seq"`
	Station         string          `json:"station"`
	Host            string          `json:"host"`
	BootID          string          `json:"boot_id"`
	Fixture         string          `json:"fixture"`
	Site            int             `json:"site"`
	CycleID         string          `json:"cycle_id"`
	Order           string          `json:"order"`
	UnitSerial      string          `json:"unit_serial"`
	SerialSource    SerialSource    `json:"serial_source"`
	Operator        string          `json:"operator"`
	AttemptNo       int             `json:"attempt_no"`
	CycleTry        int             `json:"cycle_try"`
	Purpose         Purpose         `json:"purpose"`
	RecipeSHA256    string          `json:"recipe_sha256"`
	Product         string          `json:"product"`
	RecipeRevision  string          `json:"recipe_revision"`
	ImageName       string          `json:"image_name"`
	ImageVersion    string          `json:"image_version"`
	ImageFileSHA256 string          `json:"image_file_sha256"`
	ImageHash       string          `json:"image_hash"`
	ImageSize       int64           `json:"image_size"`
	SoftwareVersion string          `json:"software_version"`
	ConfigSHA256    string          `json:"config_sha256"`
	Port            string          `json:"port"`
	Baud            int             `json:"baud"`
	StartedAt       string          `json:"started_at"`
	Outcome         Outcome         `json:"outcome"`
	FailureCode     string          `json:"failure_code"`
	FailedStep      string          `json:"failed_step"`
	Detail          string          `json:"detail"`
	NextStep        string          `json:"next_step"`
	DeviceHash      string          `json:"device_hash"`
	DeviceVersion   string          `json:"device_version"`
	PrevHash        string          `json:"prev_hash"`
	Target          Target          `json:"target"`
	ChunkSize       int             `json:"chunk_size"`
	MessageSize     int             `json:"message_size"`
	BytesSent       int64           `json:"bytes_sent"`
	Retries         int             `json:"retries"`
	EndedAt         *string         `json:"ended_at"`    // null while RUNNING
	DurationMS      *int64          `json:"duration_ms"` // null while RUNNING and when INTERRUPTED
	Policy          string          `json:"policy"`
	PolicyRow       string          `json:"policy_row"`
	PolicyWhy       string          `json:"policy_why"`
	Proof           string          `json:"proof"`
	FurtherImages   []exportedImage `json:"further_images"`
	UploadMode      string          `json:"upload_mode"`
	UploadRewinds   int             `json:"upload_rewinds"`
	UploadRate      int64           `json:"upload_bytes_per_s"`
	Steps           []exportedStep  `json:"steps"`
}

// exportedImage is a further image and what the device reported of it, which
// is empty as long as it reported nothing.
type exportedImage struct {
	Number        int    `json:"number"`
	Name          string `json:"name"`
	Version       string `json:"version"`
	FileSHA256    string `json:"file_sha256"`
	Hash          string `json:"hash"`
	Size          int64  `json:"size"`
	DeviceHash    string `json:"device_hash"`
	DeviceVersion string `json:"device_version"`
	PrevHash      string `json:"prev_hash"`
}

type exportedStep struct {
	Name       string  `json:"name"`
	Outcome    Outcome `json:"outcome"`
	StartMS    int64   `json:"start_ms"` // since the start of the attempt
	DurationMS int64   `json:"duration_ms"`
	Retries    int     `json:"retries"`
	Bytes      int64   `json:"bytes"`
	Detail     string  `json:"detail"`
}

func export(rec Record) exported {
	a := rec.Attempt
	e := exported{
		AttemptID: a.ID, Seq: a.Seq, Station: a.Station, Host: a.Host, BootID: a.BootID,
		Fixture: a.Fixture, Site: a.Site, CycleID: a.CycleID, Order: a.Order,
		UnitSerial: a.UnitSerial, SerialSource: a.SerialSource, Operator: a.Operator,
		AttemptNo: a.AttemptNo, CycleTry: a.CycleTry, Purpose: a.Purpose,
		RecipeSHA256: a.RecipeSHA256, Product: a.Product, RecipeRevision: a.RecipeRevision,
		ImageName: a.ImageName, ImageVersion: a.ImageVersion, ImageFileSHA256: a.ImageFileSHA256,
		ImageHash: a.ImageHash, ImageSize: a.ImageSize,
		SoftwareVersion: a.SoftwareVersion, ConfigSHA256: a.ConfigSHA256, Port: a.Port, Baud: a.Baud,
		StartedAt: formatTime(a.StartedAt), Outcome: rec.Outcome(),
		FurtherImages: []exportedImage{}, Steps: []exportedStep{},
	}
	for _, img := range a.Further {
		d := rec.reported(img.Number)
		e.FurtherImages = append(e.FurtherImages, exportedImage{
			Number: img.Number, Name: img.Name, Version: img.Version, FileSHA256: img.FileSHA256, Hash: img.Hash, Size: img.Size,
			DeviceHash: d.DeviceHash, DeviceVersion: d.DeviceVersion, PrevHash: d.PrevHash,
		})
	}
	r := rec.Result
	if r == nil {
		return e
	}
	e.FailureCode, e.FailedStep, e.Detail, e.NextStep = r.FailureCode, r.FailedStep, r.Detail, r.NextStep
	e.DeviceHash, e.DeviceVersion, e.PrevHash, e.Target = r.DeviceHash, r.DeviceVersion, r.PrevHash, r.Target
	e.ChunkSize, e.MessageSize, e.BytesSent, e.Retries = r.ChunkSize, r.MessageSize, r.BytesSent, r.Retries
	ended := formatTime(r.EndedAt)
	e.EndedAt = &ended
	if r.Outcome != Interrupted {
		ms := r.Duration.Milliseconds()
		e.DurationMS = &ms
	}
	e.UploadMode, e.UploadRewinds, e.UploadRate = r.UploadMode, r.UploadRewinds, r.UploadRate
	e.Policy, e.PolicyRow, e.PolicyWhy, e.Proof = r.Policy, r.PolicyRow, r.PolicyWhy, r.Proof
	for _, s := range r.Steps {
		e.Steps = append(e.Steps, exportedStep{
			Name: s.Name, Outcome: s.Outcome, StartMS: s.Start.Milliseconds(), DurationMS: s.Duration.Milliseconds(),
			Retries: s.Retries, Bytes: s.Bytes, Detail: s.Detail,
		})
	}
	return e
}

// WriteJSON writes the records as one JSON array, one record per line, times
// in UTC; no records are []. It holds one record in memory. After an error the
// array is left open, so that half an export cannot be taken for a whole one.
func WriteJSON(w io.Writer, recs iter.Seq2[Record, error]) error {
	b := bufio.NewWriter(w)
	before := "[\n"
	for rec, err := range recs {
		if err != nil {
			b.Flush()
			return err
		}
		line, err := marshal(export(rec))
		if err != nil {
			return err
		}
		b.WriteString(before)
		b.Write(line)
		before = ",\n"
	}
	if before == "[\n" {
		b.WriteString("[]\n")
	} else {
		b.WriteString("\n]\n")
	}
	return b.Flush()
}

// marshal is json.Marshal without \u003c for <: nobody reads this as HTML.
func marshal(v any) ([]byte, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return []byte(strings.TrimSuffix(b.String(), "\n")), err
}

// csvColumns are the columns of a CSV export: the names of the JSON export
// without steps.
func csvColumns() []string {
	return []string{
		"schema_version", "attempt_id", "seq", "station", "host", "boot_id", "fixture", "site", "cycle_id", "order",
		"unit_serial", "serial_source", "operator", "attempt_no", "cycle_try", "purpose",
		"recipe_sha256", "product", "recipe_revision",
		"image_name", "image_version", "image_file_sha256", "image_hash", "image_size",
		"software_version", "config_sha256", "port", "baud", "started_at",
		"outcome", "failure_code", "failed_step", "detail", "next_step",
		"device_hash", "device_version", "prev_hash", "target", "chunk_size", "message_size", "bytes_sent", "retries",
		"ended_at", "duration_ms",
		"policy", "policy_row", "policy_why", "proof", "further_images",
		"upload_mode", "upload_rewinds", "upload_bytes_per_s",
	}
}

// WriteCSV writes a line of column names and one line per record (RFC 4180,
// with \n line ends): [CSVSchemaVersion], then the fields of [WriteJSON] in
// the same order, without steps. Times are UTC; a null of the JSON is empty here.
//
// The column further_images has the further images in the order of their
// numbers, with " | " between two and, inside of one, a space between words:
//
//	1: net.bin 1.2.3 hash 5e01… device 5e01… 1.2.3 | 2: radio.bin 1.0.0 hash 9c44… device - -
//
// They are the number, name, version and hash of the image, and the hash and
// version the device reported. A value that is empty is a dash; one with other
// characters than letters and digits of ASCII and . _ + - / is a JSON string.
// What else is known of the images is in the JSON export only.
//
// Spreadsheets take text that begins with =, +, - or @ for a formula, and a
// serial is whatever somebody printed on a label. Such text gets an apostrophe
// in front, and so does text that begins with an apostrophe: whoever needs the
// original takes one leading apostrophe away.
func WriteCSV(w io.Writer, recs iter.Seq2[Record, error]) error {
	c := csv.NewWriter(w)
	if err := c.Write(csvColumns()); err != nil {
		return err
	}
	for rec, err := range recs {
		if err != nil {
			c.Flush()
			return err
		}
		if err := c.Write(csvRow(export(rec))); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

func csvRow(e exported) []string {
	row := make([]string, 0, len(csvColumns()))
	text := func(cells ...string) {
		for _, cell := range cells {
			row = append(row, guard(cell))
		}
	}
	number := func(n int64) { row = append(row, strconv.FormatInt(n, 10)) }

	number(CSVSchemaVersion)
	text(e.AttemptID)
	number(e.Seq)
	text(e.Station, e.Host, e.BootID, e.Fixture)
	number(int64(e.Site))
	text(e.CycleID, e.Order, e.UnitSerial, string(e.SerialSource), e.Operator)
	number(int64(e.AttemptNo))
	number(int64(e.CycleTry))
	text(string(e.Purpose), e.RecipeSHA256, e.Product, e.RecipeRevision,
		e.ImageName, e.ImageVersion, e.ImageFileSHA256, e.ImageHash)
	number(e.ImageSize)
	text(e.SoftwareVersion, e.ConfigSHA256, e.Port)
	number(int64(e.Baud))
	text(e.StartedAt, string(e.Outcome), e.FailureCode, e.FailedStep, e.Detail, e.NextStep,
		e.DeviceHash, e.DeviceVersion, e.PrevHash, string(e.Target))
	number(int64(e.ChunkSize))
	number(int64(e.MessageSize))
	number(e.BytesSent)
	number(int64(e.Retries))
	if e.EndedAt != nil {
		text(*e.EndedAt)
	} else {
		text("")
	}
	if e.DurationMS != nil {
		number(*e.DurationMS)
	} else {
		text("")
	}
	text(e.Policy, e.PolicyRow, e.PolicyWhy, e.Proof, imagesCell(e.FurtherImages), e.UploadMode)
	number(int64(e.UploadRewinds))
	number(e.UploadRate)
	return row
}

// imagesCell writes the column further_images as [WriteCSV] describes it.
func imagesCell(images []exportedImage) string {
	cells := make([]string, 0, len(images))
	for _, img := range images {
		cells = append(cells, fmt.Sprintf("%d: %s %s hash %s device %s %s", img.Number,
			word(img.Name), word(img.Version), word(img.Hash), word(img.DeviceHash), word(img.DeviceVersion)))
	}
	return strings.Join(cells, " | ")
}

// word makes one word of s, from which s can be told again.
func word(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-/"
	if s != "-" && strings.Trim(s, plain) == "" {
		return dash(s)
	}
	quoted, _ := marshal(s) // a string has a JSON text, always
	return string(quoted)
}

// guard keeps a spreadsheet from running a cell. The list is the one of the
// OWASP page on CSV injection: full-width forms, tab and line ends included.
func guard(cell string) string {
	first, _ := utf8.DecodeRuneInString(cell)
	if strings.ContainsRune("=+-@＝＋－＠\t\r\n'", first) {
		return "'" + cell
	}
	return cell
}
