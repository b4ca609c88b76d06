// The jailed end for C++: follows the answer in the same file, calls its function, reports how it fails. What it says is
// taken for a value or a failure only. The answer may have made macros of any word; those of the language are put back.
#undef auto
#undef bool
#undef break
#undef case
#undef catch
#undef char
#undef class
#undef const
#undef continue
#undef double
#undef else
#undef false
#undef float
#undef for
#undef if
#undef inline
#undef int
#undef long
#undef namespace
#undef new
#undef return
#undef short
#undef signed
#undef sizeof
#undef static
#undef struct
#undef template
#undef throw
#undef true
#undef try
#undef typename
#undef unsigned
#undef using
#undef void
#undef while

#include <cxxabi.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <ios>
#include <list>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace ap2o_judge {

constexpr int channel = 3, channel_lost = 98;
inline bool called = false;  // false while the answer's static objects are made
inline std::uint64_t top_of_stack = 0;

// ---- frames: four bytes of length, then JSON

inline void exactly(bool out, char* bytes, std::size_t size) {
  while (size > 0) {
    ssize_t count = out ? ::write(channel, bytes, size) : ::read(channel, bytes, size);
    if (count <= 0) ::_exit(channel_lost);
    bytes += count, size -= count;
  }
}

inline std::string receive() {
  unsigned char head[4];
  exactly(false, reinterpret_cast<char*>(head), 4);
  std::string body((std::size_t(head[0]) << 24) | (head[1] << 16) | (head[2] << 8) | head[3], '\0');
  exactly(false, &body[0], body.size());
  return body;
}

inline void send(const char* body, std::size_t size) {
  char head[4] = {char(size >> 24), char(size >> 16), char(size >> 8), char(size)};
  exactly(true, head, 4);
  exactly(true, const_cast<char*>(body), size);
}

// ---- failures: may be reported from a signal handler, so nothing here allocates

struct Line {
  std::uint64_t address, line;
};

// The answer's line for an address, by the table that was written when the program was built.
inline int line_of(std::uint64_t address) {
  int file = ::open("answer.lines", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  std::uint64_t low = 0, high = std::uint64_t(::lseek(file, 0, SEEK_END)) / sizeof(Line);
  Line best{0, 0};
  while (low < high) {  // the last row at or below the address
    std::uint64_t middle = (low + high) / 2;
    Line row;
    if (::pread(file, &row, sizeof row, off_t(middle * sizeof row)) != ssize_t(sizeof row)) break;
    if (row.address <= address)
      best = row, low = middle + 1;
    else
      high = middle;
  }
  ::close(file);
  return int(best.line);
}

// Addresses on the stack, the deepest first.
struct Trace {
  int count = 0;
  std::uint64_t address[60];
};

inline Trace thrown;  // where the latest exception was thrown

inline void walk(Trace& trace) {
  trace.count = 0;
  _Unwind_Backtrace(
      [](_Unwind_Context* context, void* argument) -> _Unwind_Reason_Code {
        Trace& trace = *static_cast<Trace*>(argument);
        int before = 0;  // whether it is that of an instruction still to run, not of one to return to
        std::uint64_t address = _Unwind_GetIPInfo(context, &before);
        trace.address[trace.count++] = before ? address : address - 1;
        return trace.count == 60 ? _URC_END_OF_STACK : _URC_NO_REASON;
      },
      &trace);
}

// The line of the deepest frame that lies in the answer.
inline int line_of(const Trace& trace) {
  int line = 0;
  for (int i = 0; i < trace.count && line == 0; ++i) line = line_of(trace.address[i]);
  return line;
}

// Report a failure. name: the builtin exception of Python that is most like it; kind: what C++ calls it.
inline void raised(const char* name, const char* kind, const char* text, int line) {
  static char body[2048];
  char plain[2][600];
  const char* given[2] = {kind, text};
  for (int i = 0; i < 2; ++i) {  // as JSON: quotes and controls go, broken UTF-8 too
    std::size_t size = 0;
    for (const char* from = given[i]; *from && size + 1 < sizeof plain[i]; ++from)
      plain[i][size++] = *from == '"' || *from == '\\' ? '\'' : (*from >= 32 && *from < 127) ? *from : '?';
    plain[i][size] = '\0';
  }
  int size = std::snprintf(body, sizeof body,
                           "[\"raised\",\"%s\",{\"names\":[\"%s\"],\"class\":\"%s\",\"text\":\"%s\",\"line\":%d}]",
                           called ? "call" : "load", name, plain[0], plain[1], line);
  send(body, std::size_t(size));
}

inline void raised_and_over(const char* name, const char* kind, const char* text) {
  Trace here;
  walk(here);
  raised(name, kind, text, line_of(here));
  ::_exit(channel_lost);
}

// The exception that is being handled.
inline void raised_current() {
  int line = line_of(thrown);
  auto tell = [line](const char* name, const std::exception& error) {
    char* kind = abi::__cxa_demangle(typeid(error).name(), nullptr, nullptr, nullptr);
    raised(name, kind ? kind : "exception", error.what(), line);
    std::free(kind);
  };
  try {
    throw;
  } catch (const std::out_of_range& error) {
    bool key = std::strstr(error.what(), "map::at") || std::strstr(error.what(), "_Map_base::at");
    tell(key ? "KeyError" : "IndexError", error);
  } catch (const std::logic_error& error) {
    bool value = dynamic_cast<const std::invalid_argument*>(&error) || dynamic_cast<const std::domain_error*>(&error) ||
                 dynamic_cast<const std::length_error*>(&error);
    tell(value ? "ValueError" : "RuntimeError", error);
  } catch (const std::system_error& error) {  // ios_base::failure and filesystem_error among them
    tell("OSError", error);
  } catch (const std::overflow_error& error) {
    tell("OverflowError", error);
  } catch (const std::underflow_error& error) {
    tell("OverflowError", error);
  } catch (const std::range_error& error) {
    tell("ValueError", error);
  } catch (const std::runtime_error& error) {
    tell("RuntimeError", error);
  } catch (const std::bad_alloc& error) {
    tell("MemoryError", error);
  } catch (const std::bad_cast& error) {  // bad_any_cast among them
    tell("TypeError", error);
  } catch (const std::exception& error) {
    tell("", error);
  } catch (const char* text) {
    raised("", "", text, line);
  } catch (const std::string& text) {
    raised("", "", text.c_str(), line);
  } catch (...) {
    raised("", "", "threw something that is no std::exception", line);
  }
}

inline void on_signal(int number, siginfo_t*, void* state) {
  const mcontext_t& machine = static_cast<ucontext_t*>(state)->uc_mcontext;
#if defined(__x86_64__)
  std::uint64_t stack = std::uint64_t(machine.gregs[REG_RSP]);
#else
  std::uint64_t stack = machine.sp;
#endif
  struct rlimit limit;
  ::getrlimit(RLIMIT_STACK, &limit);
  constexpr std::uint64_t near = 256 << 10;
  bool overflow = stack < top_of_stack && top_of_stack - stack + near >= limit.rlim_cur;
  if (number == SIGFPE) raised_and_over("ZeroDivisionError", "SIGFPE", "integer division by zero or overflow");
  if (number == SIGILL) raised_and_over("RuntimeError", "", "undefined behaviour: an array's bounds, or no return value");
  if (number == SIGSEGV && overflow) raised_and_over("RecursionError", "SIGSEGV", "stack overflow");
  raised_and_over("", number == SIGBUS ? "SIGBUS" : "SIGSEGV", "invalid memory access");
}

// Before the answer's own static objects.
__attribute__((constructor(101))) inline void prepare() {
  static char spare_stack[64 << 10];
  top_of_stack = reinterpret_cast<std::uint64_t>(__builtin_frame_address(0));
  stack_t spare{};
  spare.ss_sp = spare_stack;
  spare.ss_size = sizeof spare_stack;
  ::sigaltstack(&spare, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | int(SA_RESETHAND);
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) ::sigaction(number, &action, nullptr);
  std::set_terminate([] {
    if (!std::current_exception()) raised_and_over("RuntimeError", "std::terminate", "");
    raised_current();
    ::_exit(channel_lost);
  });
}

}  // namespace ap2o_judge

// ---- in place of the C++ library's own, to learn where and why

// Under another name, since the compiler and cxxabi.h declare it each in a way of its own.
extern "C" void ap2o_judge_throw(void*, std::type_info*, void (*)(void*)) __asm__("__cxa_throw");
extern "C" void ap2o_judge_throw(void* thing, std::type_info* kind, void (*destroy)(void*)) {
  static auto real = reinterpret_cast<void (*)(void*, std::type_info*, void (*)(void*))>(::dlsym(RTLD_NEXT, "__cxa_throw"));
  ap2o_judge::walk(ap2o_judge::thrown);
  real(thing, kind, destroy);
  __builtin_unreachable();
}

extern "C" void abort() noexcept {
  ap2o_judge::raised_and_over("RuntimeError", "abort", "");
  __builtin_unreachable();
}

extern "C" void __assert_fail(const char* text, const char*, unsigned, const char*) noexcept {
  ap2o_judge::raised_and_over("AssertionError", "AssertionError", text);
  __builtin_unreachable();
}

// std::__glibcxx_assert_fail, which only some versions declare: mostly an index or an iterator out of range.
extern "C" void ap2o_judge_precondition(const char*, int, const char*, const char*) noexcept
    __asm__("_ZSt21__glibcxx_assert_failPKciS0_S0_");
extern "C" void ap2o_judge_precondition(const char*, int, const char*, const char* text) noexcept {
  ap2o_judge::raised_and_over("IndexError", "precondition", text);
  __builtin_unreachable();
}
