# targets.tsv and the lines that `bench` prints -> a picture: the speed of each transport, relative to bare sockets.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

BEGIN {
    FS = "\t"
    WIDTH = 430       # of a panel
    LABELS = 190      # left of the panels
    GAP = 50
    TOP = 70
    STEP = 20
    split("#1b6ca8 #718096 #c05621 #6b46c1 #2f855a #97266d #744210", colour, " ")
    who_colour["libipc"] = colour[1]
    who[++count_who] = "libipc"
    label["round trip"] = "round trip, "
    label["one way"] = "one way, "
    label["clients"] = "clients: "
    label["beside idle"] = "beside idle (to 0): "
    label["connect + close"] = "connect + close, "
}

/^#/ { next }

FILENAME ~ /targets/ {
    if ($3 == "ratio") {
        must[$1, $2] = $4 == "<=" ? 1 / $5 : $5
        aim[$1, $2] = $4 == "<=" ? 1 / $6 : $6
    }
    next
}

# Rows without a ratio are not shown, nor the row that a ratio refers to.
$7 == 0 || $4 == "bare" || $4 == "to full" || ($1 == "beside idle" && $2 == "0") { next }

{
    if (!(($1, $2) in row)) {
        row[$1, $2] = ++rows
        text[rows] = label[$1] $2
        row_must[rows] = must[$1, $2]
        row_aim[rows] = aim[$1, $2]
    }
    if (!($4 in who_colour)) {
        who[++count_who] = $4
        who_colour[$4] = colour[count_who]
    }
    n++
    at[n] = row[$1, $2]
    panel[n] = $3
    name[n] = $4
    # Times are shown as speeds: half the time is twice the speed.
    speed[n] = $5 == "us" ? 1 / $7 : $7
    slow[n] = $5 == "us" ? 1 / $9 : $8
    fast[n] = $5 == "us" ? 1 / $8 : $9
    if (speed[n] < least || least == "") least = speed[n]
    if (speed[n] > most) most = speed[n]
}

function log2(x) { return log(x) / log(2) }

function x_of(panel, speed,   left, x) {
    left = LABELS + (panel - 1) * (WIDTH + GAP)
    x = (log2(speed) - from) / (to - from) * WIDTH
    if (x < 0) x = 0
    if (x > WIDTH) x = WIDTH
    return left + x
}

function y_of(row) { return TOP + (row - 0.5) * STEP }

function line(x1, y1, x2, y2, stroke, width) {
    printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%s\"/>\n", x1, y1, x2, y2, stroke, width
}

function dot(x, y, fill, radius) {
    printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"/>\n", x, y, radius, fill
}

function words(x, y, anchor, what) {
    printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor, what
}

function escaped(s) {
    gsub(/&/, "\\&amp;", s)
    gsub(/</, "\\&lt;", s)
    return s
}

function draw_panel(p,   power, r) {
    words(x_of(p, 1), TOP - 8, "middle", p == 1 ? "one core" : "two cores")
    for (power = from; power <= to; power++) {
        line(x_of(p, 2 ^ power), TOP, x_of(p, 2 ^ power), TOP + rows * STEP, power == 0 ? "#444" : "#ddd", 1)
        words(x_of(p, 2 ^ power), TOP + rows * STEP + 15, "middle", power < 0 ? "1/" 2 ^ -power : 2 ^ power)
    }
    for (r = 1; r <= rows && p == 1; r++) {
        if (row_must[r] == "") continue
        line(x_of(p, row_must[r]), y_of(r) - 8, x_of(p, row_must[r]), y_of(r) + 8, "#e53e3e", 2)
        line(x_of(p, row_aim[r]), y_of(r) - 8, x_of(p, row_aim[r]), y_of(r) + 8, "#38a169", 2)
    }
}

END {
    if (n == 0) exit
    # The range: whole powers of two that include every figure.
    from = -1
    to = 1
    while (2 ^ from > least && from > -10) from--
    while (2 ^ to < most && to < 10) to++
    width = LABELS + 2 * WIDTH + GAP + 20
    height = TOP + rows * STEP + 45
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n", width, height, width, height
    printf "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", width, height
    words(10, 18, "start", "Speed relative to bare sockets (1), medians; bars: quartiles of libipc; further right is faster")
    words(10, 34, "start", escaped(machine))
    for (i = 1; i <= rows; i++) words(LABELS - 12, y_of(i) + 4, "end", escaped(text[i]))
    draw_panel(1)
    draw_panel(2)
    for (i = 1; i <= n; i++) {
        if (name[i] != "libipc") dot(x_of(panel[i], speed[i]), y_of(at[i]), who_colour[name[i]], 3)
    }
    for (i = 1; i <= n; i++) {
        if (name[i] != "libipc") continue
        line(x_of(panel[i], slow[i]), y_of(at[i]), x_of(panel[i], fast[i]), y_of(at[i]), who_colour["libipc"], 3)
        dot(x_of(panel[i], speed[i]), y_of(at[i]), who_colour["libipc"], 5)
    }
    x = LABELS
    y = height - 10
    for (i = 1; i <= count_who; i++) {
        dot(x, y - 4, who_colour[who[i]], who[i] == "libipc" ? 5 : 3)
        words(x + 8, y, "start", escaped(who[i]))
        x += 85
    }
    line(x, y - 12, x, y, "#e53e3e", 2)
    words(x + 6, y, "start", "must")
    line(x + 60, y - 12, x + 60, y, "#38a169", 2)
    words(x + 66, y, "start", "aim")
    print "</svg>"
}
