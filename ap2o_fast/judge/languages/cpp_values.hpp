// How values cross to the answer's function and back, and the calls. Follows `cpp_failures.hpp` in the same file.

namespace ap2o_judge {

// ---- values: see values.py for their form

struct Mismatch {
  std::string text;
};

class Reader {
 public:
  explicit Reader(const std::string& body) : at_(body.data()), end_(at_ + body.size()) {}

  char peek() const { return at_ < end_ ? *at_ : '\0'; }

  bool take(char wanted) {
    bool there = peek() == wanted;
    at_ += there;
    return there;
  }

  void expect(char wanted) {
    if (!take(wanted)) throw Mismatch{"a value of another form"};
  }

  // A list that begins with one of these tags (space between): true, and then its items follow.
  bool open(const std::string& tags) {
    const char* before = at_;
    if (take('[') && peek() == '"' && (" " + tags + " ").find(" " + text() + " ") != std::string::npos) return true;
    at_ = before;
    return false;
  }

  // After `open`: true while there is another item.
  bool more() { return take(',') || (expect(']'), false); }

  // A number, true, false or null.
  std::string word() {
    const char* from = at_;
    while (at_ < end_ && !std::strchr(",]", *at_)) ++at_;
    return std::string(from, at_);
  }

  std::string text() {
    std::string out;
    expect('"');
    while (!take('"')) {
      char next = *at_++;
      if (next != '\\') {
        out += next;
        continue;
      }
      next = *at_++;
      const char* simple = std::strchr("b\bf\fn\nr\rt\t", next);
      if (next != 'u') {
        out += simple && *simple ? simple[1] : next;
        continue;
      }
      std::uint32_t point = hex();
      if (point >= 0xd800 && point < 0xdc00 && at_[0] == '\\' && at_[1] == 'u') {
        at_ += 2;
        point = 0x10000 + ((point - 0xd800) << 10) + (hex() - 0xdc00);
      }
      append_utf8(out, point);
    }
    return out;
  }

 private:
  std::uint32_t hex() {
    std::uint32_t value = std::uint32_t(std::stoul(std::string(at_, 4), nullptr, 16));
    at_ += 4;
    return value;
  }

  static void append_utf8(std::string& out, std::uint32_t point) {
    if (point < 0x80) {
      out += char(point);
    } else if (point < 0x800) {
      out += {char(0xc0 | (point >> 6)), char(0x80 | (point & 63))};
    } else if (point < 0x10000) {
      out += {char(0xe0 | (point >> 12)), char(0x80 | ((point >> 6) & 63)), char(0x80 | (point & 63))};
    } else {
      out += {char(0xf0 | (point >> 18)), char(0x80 | ((point >> 12) & 63)), char(0x80 | ((point >> 6) & 63)),
              char(0x80 | (point & 63))};
    }
  }

  const char* at_;
  const char* end_;
};

inline bool is_utf8(const std::string& text) {
  for (std::size_t i = 0; i < text.size();) {
    unsigned char lead = text[i];
    int more = lead < 0x80 ? 0 : lead >= 0xc2 && lead < 0xe0 ? 1 : (lead & 0xf0) == 0xe0 ? 2 : (lead & 0xf8) == 0xf0 ? 3 : -1;
    if (more < 0 || i + more >= text.size()) return false;
    for (int k = 1; k <= more; ++k)
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
    i += 1 + more;
  }
  return true;
}

inline void write_text(std::string& out, const std::string& text) {
  bool proper = is_utf8(text);
  if (!proper) out += "[\"b\",";  // no text, so it arrives as bytes
  out += '"';
  for (unsigned char next : text) {
    if (next < 32 || next == '"' || next == '\\' || next == 127 || (!proper && next > 127)) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", next);
      out += escaped;
    } else {
      out += char(next);
    }
  }
  out += proper ? "\"" : "\"]";
}

// How a type crosses: `read` from a form, or throw Mismatch; `write` as a form.
template <class T, class = void>
struct Type {
  static_assert(sizeof(T) == 0, "the judge cannot pass a value of this type");
};

template <>
struct Type<bool> {
  static bool read(Reader& from) {
    std::string word = from.word();
    if (word != "true" && word != "false") throw Mismatch{"no bool"};
    return word == "true";
  }
  static void write(std::string& out, bool value) { out += value ? "true" : "false"; }
};

template <class T>
struct Type<T, std::enable_if_t<std::is_integral_v<T>>> {
  static T read(Reader& from) {
    bool large = from.open("i");  // beyond 62 bits: hexadecimal, as a text
    if (large) from.expect(',');
    std::string word = large ? from.text() : from.word();
    if (large) from.expect(']');
    char* end = nullptr;
    errno = 0;
    bool negative = word[0] == '-';
    std::int64_t low = negative ? std::strtoll(word.c_str(), &end, large ? 16 : 10) : 0;
    std::uint64_t high = negative ? 0 : std::strtoull(word.c_str(), &end, large ? 16 : 10);
    bool whole = !word.empty() && *end == '\0';
    T value = negative ? T(low) : T(high);
    if (!whole) {  // 2.0 is an integer all the same
      double number = std::strtod(word.c_str(), &end);
      if (word.empty() || *end != '\0' || number != std::floor(number) || std::fabs(number) > 9e15) throw Mismatch{"no integer"};
      low = std::int64_t(number), negative = true, value = T(low);
    }
    if (errno == ERANGE || (negative ? std::int64_t(value) != low || (low < 0) != (value < T(0)) : std::uint64_t(value) != high || value < T(0)))
      throw Mismatch{"an integer that does not fit"};
    return value;
  }
  static void write(std::string& out, T value) {
    bool negative = value < T(0);
    std::uint64_t size = negative ? std::uint64_t(0) - std::uint64_t(value) : std::uint64_t(value);
    char text[40];
    const char* form = size >> 62 ? "[\"i\",\"%s0x%llx\"]" : "%s%llu";
    std::snprintf(text, sizeof text, form, negative ? "-" : "", static_cast<unsigned long long>(size));
    out += text;
  }
};

template <class T>
struct Type<T, std::enable_if_t<std::is_floating_point_v<T>>> {
  static T read(Reader& from) {
    if (from.open("n i")) {
      from.expect(',');
      std::string text = from.text();
      from.expect(']');
      return T(std::strtold(text.c_str(), nullptr));  // nan, inf, hexadecimal
    }
    std::string word = from.word();
    char* end = nullptr;
    T value = T(std::strtold(word.c_str(), &end));
    if (word.empty() || *end != '\0') throw Mismatch{"no number"};
    return value;
  }
  static void write(std::string& out, T value) {
    char text[64];
    if (!std::isfinite(value)) {
      out += std::isnan(value) ? "[\"n\",\"nan\"]" : value < 0 ? "[\"n\",\"-inf\"]" : "[\"n\",\"inf\"]";
      return;
    }
    // The shortest text that is this value again: a float 0.1f is to arrive as 0.1.
    constexpr int most = std::is_same_v<T, float> ? 9 : 17;
    for (int digits = most - 3; digits <= most; ++digits) {
      std::snprintf(text, sizeof text, "%.*g", digits, double(value));
      if (T(std::strtod(text, nullptr)) == value) break;
    }
    out += text;
  }
};

template <>
struct Type<char> {
  static char read(Reader& from) {
    std::string text = from.peek() == '"' ? from.text() : "";
    if (text.size() != 1) throw Mismatch{"no character of one byte"};
    return text[0];
  }
  static void write(std::string& out, char value) { write_text(out, std::string(1, value)); }
};

template <>
struct Type<std::string> {
  static std::string read(Reader& from) {
    if (from.peek() != '"') throw Mismatch{"no text"};
    return from.text();
  }
  static void write(std::string& out, const std::string& value) { write_text(out, value); }
};

template <class T>
struct Type<std::optional<T>> {
  static std::optional<T> read(Reader& from) {
    if (from.peek() == 'n') return from.word(), std::nullopt;
    return Type<T>::read(from);
  }
  static void write(std::string& out, const std::optional<T>& value) {
    if (value)
      Type<T>::write(out, *value);
    else
      out += "null";
  }
};

template <class List, class T>
struct Items {
  template <class Add>
  static void read(Reader& from, const char* tags, Add add) {
    if (!from.open(tags)) throw Mismatch{"no container of the kind"};
    while (from.more()) add();
  }
  static void write(std::string& out, const char* tag, const List& value) {
    out += tag;
    for (const auto& item : value) {
      out += ',';
      Type<T>::write(out, item);
    }
    out += ']';
  }
};

constexpr const char* listed = "l t q it dk dv";

template <class List>
struct Sequence {
  using T = typename List::value_type;
  static List read(Reader& from) {
    List list;
    Items<List, T>::read(from, listed, [&] { list.push_back(Type<T>::read(from)); });
    return list;
  }
  static void write(std::string& out, const List& value) { Items<List, T>::write(out, "[\"l\"", value); }
};

template <class T>
struct Type<std::vector<T>> : Sequence<std::vector<T>> {};
template <class T>
struct Type<std::deque<T>> : Sequence<std::deque<T>> {};
template <class T>
struct Type<std::list<T>> : Sequence<std::list<T>> {};

template <class T, std::size_t N>
struct Type<std::array<T, N>> {
  static std::array<T, N> read(Reader& from) {
    std::array<T, N> list{};
    std::size_t have = 0;
    Items<std::array<T, N>, T>::read(from, listed, [&] {
      if (have == N) throw Mismatch{"too long a list"};
      list[have++] = Type<T>::read(from);
    });
    if (have < N) throw Mismatch{"too short a list"};
    return list;
  }
  static void write(std::string& out, const std::array<T, N>& value) {
    Items<std::array<T, N>, T>::write(out, "[\"l\"", value);
  }
};

template <class List>
struct Set {
  using T = typename List::value_type;
  static List read(Reader& from) {
    List list;
    Items<List, T>::read(from, "s f l", [&] { list.insert(Type<T>::read(from)); });  // JSON has no sets, only lists
    return list;
  }
  static void write(std::string& out, const List& value) { Items<List, T>::write(out, "[\"s\"", value); }
};

template <class T>
struct Type<std::set<T>> : Set<std::set<T>> {};
template <class T>
struct Type<std::unordered_set<T>> : Set<std::unordered_set<T>> {};

template <class Map>
struct Mapping {
  using K = typename Map::key_type;
  using V = typename Map::mapped_type;
  static Map read(Reader& from) {
    Map map;
    if (!from.open("d di C O D")) throw Mismatch{"no map"};
    while (from.more()) {
      K key = Type<K>::read(from);
      from.expect(',');
      map.emplace(std::move(key), Type<V>::read(from));
    }
    return map;
  }
  static void write(std::string& out, const Map& value) {
    out += "[\"d\"";
    for (const auto& item : value) {
      out += ',';
      Type<K>::write(out, item.first);
      out += ',';
      Type<V>::write(out, item.second);
    }
    out += ']';
  }
};

template <class K, class V>
struct Type<std::map<K, V>> : Mapping<std::map<K, V>> {};
template <class K, class V>
struct Type<std::unordered_map<K, V>> : Mapping<std::unordered_map<K, V>> {};

template <class T>
void read_next(Reader& from, T& value, const char* what) {
  if (!from.take(',')) throw Mismatch{std::string("too few ") + what};
  value = Type<T>::read(from);
}

template <class... T>
struct Type<std::tuple<T...>> {
  static std::tuple<T...> read(Reader& from) {
    std::tuple<T...> value;
    if (!from.open("t l")) throw Mismatch{"no tuple"};
    std::apply([&](T&... item) { (..., read_next(from, item, "items")); }, value);
    if (!from.take(']')) throw Mismatch{"too many items"};
    return value;
  }
  static void write(std::string& out, const std::tuple<T...>& value) {
    out += "[\"t\"";
    std::apply([&](const T&... item) { (..., (out += ',', Type<T>::write(out, item))); }, value);
    out += ']';
  }
};

template <class A, class B>
struct Type<std::pair<A, B>> {
  static std::pair<A, B> read(Reader& from) {
    std::tuple<A, B> value = Type<std::tuple<A, B>>::read(from);
    return {std::get<0>(std::move(value)), std::get<1>(std::move(value))};
  }
  static void write(std::string& out, const std::pair<A, B>& value) {
    Type<std::tuple<A, B>>::write(out, std::tuple<A, B>(value));
  }
};

// ---- calls

template <class T>
using Plain = std::remove_cv_t<std::remove_reference_t<T>>;

// A frame of a call: [["t", positional...], ["d"]].
template <class... A, std::size_t... I>
void read_arguments(const std::string& body, std::tuple<A...>& values, std::index_sequence<I...>) {
  Reader from(body);
  from.expect('[');
  if (!from.open("t")) throw Mismatch{"no arguments"};
  std::size_t number = 0;
  try {
    (..., (++number, read_next(from, std::get<I>(values), "arguments")));
  } catch (const Mismatch& why) {
    throw Mismatch{"argument " + std::to_string(number) + ": " + why.text};
  }
  if (!from.take(']')) throw Mismatch{"takes " + std::to_string(sizeof...(A)) + " arguments, more were given"};
}

template <class R, class... A, std::size_t... I>
void call(R (*function)(A...), const std::string& body, std::index_sequence<I...> indices) {
  std::tuple<Plain<A>...> values;
  try {
    read_arguments(body, values, indices);
  } catch (const Mismatch& why) {
    return raised("TypeError", "TypeError", why.text.c_str(), 0);
  }
  std::string out = "[\"value\",";
  try {
    if constexpr (std::is_void_v<R>) {
      function(static_cast<A&&>(std::get<I>(values))...);
      out += "null";
    } else {
      Type<Plain<R>>::write(out, function(static_cast<A&&>(std::get<I>(values))...));
    }
  } catch (...) {
    return raised_current();
  }
  out += ']';
  send(out.data(), out.size());
}

template <class R, class... A>
[[noreturn]] void serve(R (*function)(A...)) {
  called = true;
  send("[\"ready\"]", 9);
  for (;;) call(function, receive(), std::index_sequence_for<A...>{});
}

}  // namespace ap2o_judge
