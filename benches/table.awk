# targets.tsv and the lines that `bench` prints -> a table to read.
#
# Variables: rounds and slice_ms, for the note. Lines of one row are adjacent, and so are rows of one workload.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

BEGIN {
    FS = "\t"
    title["round trip"] = "Round trip, by payload. Microseconds; ratio of times: lower is better."
    title["one way"] = "One way, by payload. Messages per second; ratio of rates: higher is better."
    title["clients"] = "Clients in lockstep, 64 B, by their number. Messages per second of all; ratio of rates: higher is better."
    title["beside idle"] = "Round trip of 64 B with idle connections, by their number. Microseconds; ratio of times to 0 idle: lower is better."
    title["connect + close"] = "Connect and close. Per second; ratio of rates: higher is better."
    title["memory"] = "Memory of the server for an idle connection, without the program's own. Bytes."
    title["instructions"] = "Instructions of a round trip of 64 B, without those of the kernel: of the library alone, of the process, of each call."
    title["size"] = "Size of the library, stripped. Bytes."
}

/^#/ { next }

FILENAME ~ /targets/ {
    target = $1 FS $2 FS 1
    kind[target] = $3
    comparison[target] = $4
    must[target] = $5
    aim[target] = $6
    must_full[target] = $7
    next
}

{
    row = $1 FS $2 FS $3
    if (!(row in known)) {
        known[row] = ++rows
        work[rows] = $1
        variant[rows] = $2
        cores[rows] = $3
    }
    value[row, $4] = $6
    ratio[row, $4] = $7
    low[row, $4] = $8
    high[row, $4] = $9
    if ($4 == "to full") {
        has_full[$1] = 1
    } else if ($4 != "bare" && $4 != "libipc" && $1 != "instructions") {
        if (!($4 in peer_known)) peer[++peers] = $4
        peer_known[$4] = 1
        has_peers[$1] = 1
    }
}

function number(x) {
    if (x == "") return ""
    if (x >= 1000) return sprintf("%d", x + 0.5)
    if (x >= 100) return sprintf("%.0f", x)
    if (x >= 10) return sprintf("%.1f", x)
    return sprintf("%.2f", x)
}

function reached(x, how, limit) {
    return how == "<=" ? x <= limit : x >= limit
}

function verdict(row,   x) {
    if (!(row in kind) || value[row, "libipc"] == "") return ""
    if (kind[row] == "apart") x = (row, "apart") in ratio ? ratio[row, "libipc"] / ratio[row, "apart"] : 0
    else x = kind[row] == "ratio" ? ratio[row, "libipc"] : value[row, "libipc"]
    if (kind[row] == "apart") x = int (x * 100 + 0.5) / 100
    if (reached(x, comparison[row], aim[row])) return "aim met"
    return reached(x, comparison[row], must[row]) ? "must met" : "MISSED"
}

function limits(row) {
    if (!(row in kind)) return sprintf("%-9s%-9s%-9s", "", "", "")
    return sprintf("%-9s%-9s%-9s", comparison[row] " " must[row], comparison[row] " " aim[row], verdict(row))
}

# The ratio to "full", and its target.
function to_full(row,   x) {
    if (!((row, "to full") in ratio)) return sprintf("%8s %-8s", "-", "")
    x = ratio[row, "to full"]
    if (!(row in must_full) || must_full[row] == "") return sprintf("%8.2f %-8s", x, "")
    return sprintf("%8.2f %-8s", x, (reached(x, comparison[row], must_full[row]) ? "" : "! ") comparison[row] " " must_full[row])
}

function heading(name, plain,   i, line) {
    print "\n" title[name]
    line = sprintf("%-10s%-16s%9s%9s", "", "", "bare", "libipc")
    if (!plain) line = line sprintf("%7s %-13s", "ratio", "[quartiles]")
    line = line (plain ? " " : "") sprintf("%-9s%-9s%-9s", "must", "aim", "")
    if (has_full[name]) line = line sprintf("%8s %-8s", "to full", "must")
    for (i = 1; i <= peers && has_peers[name]; i++) line = line sprintf("%7s", peer[i])
    if (name == "beside idle") line = line sprintf("%7s", "bare")
    if (name == "instructions") line = line sprintf("%7s", "full")
    sub(/ +$/, "", line)
    print line
}

function print_row(i,   row, plain, line, p, place) {
    row = work[i] FS variant[i] FS cores[i]
    plain = value[row, "libipc"] != "" && ratio[row, "libipc"] == 0
    if (work[i] != work[i - 1]) heading(work[i], plain)
    place = cores[i] == 1 ? "one core" : "two cores"
    if (plain || (work[i] == work[i - 1] && cores[i] == cores[i - 1])) place = ""
    line = sprintf("%-10s%-16s%9s%9s", place, variant[i], number(value[row, "bare"]), number(value[row, "libipc"]))
    if (!plain) {
        line = line sprintf("%7.2f %-13s", ratio[row, "libipc"], sprintf("[%.2f, %.2f]", low[row, "libipc"], high[row, "libipc"]))
    }
    line = line (plain ? " " : "") limits(row)
    if (has_full[work[i]]) line = line to_full(row)
    for (p = 1; p <= peers && has_peers[work[i]]; p++) {
        line = line sprintf("%7s", (row, peer[p]) in ratio ? sprintf("%.2f", ratio[row, peer[p]]) : "-")
    }
    if (work[i] == "beside idle") line = line sprintf("%7.2f", ratio[row, "bare"])
    if (work[i] == "instructions") line = line sprintf("%7s", number(value[row, "full"]))
    sub(/ +$/, "", line)
    print line
}

END {
    printf "Medians of %d rounds of %d ms for each, taken in turns. Peers: their ratios to bare.\n", rounds, slice_ms
    for (i = 1; i <= rows; i++) print_row(i)
}
