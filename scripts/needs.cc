// Tests the prerequisites of a build of Hearth on this machine, in the way in which the build will use them.
//
// usage: needs compiler
//        needs libclang HEADER [ARGUMENT_OF_CLANG...]
//
// `compiler` needs only to run: it shows that there is a C++20 compiler with its library and threads. `libclang`
// finds libclang where clang-sys 1.9 does (build/common.rs and build/dynamic.rs, with its feature `runtime`), loads
// it, and parses a header with it, as bindgen does. If a test fails, the exit code is 1 and the reason is printed.
#include <dlfcn.h>
#include <glob.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

using Strings = std::vector<std::string>;

struct Library {
    std::string path;
    std::vector<unsigned> version;
};

static Strings matches(const std::string& pattern) {
    Strings found;
    glob_t result;
    if (glob(pattern.c_str(), 0, nullptr, &result) == 0) found.assign(result.gl_pathv, result.gl_pathv + result.gl_pathc);
    globfree(&result);
    return found;
}

static bool is_folder(const std::string& path) {
    struct stat status;
    return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

// Parses the version as clang-sys does: a part that is not a number counts as 0, as does the `so` of
// libclang-14.so.14.
static std::vector<unsigned> version_of(const std::string& name) {
    std::string text;
    if (name.starts_with("libclang.so.")) text = name.substr(12);
    else if (name.starts_with("libclang-")) text = name.substr(9, name.size() - 12);
    std::vector<unsigned> version;
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, '.');) {
        bool is_number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
        version.push_back(is_number ? std::strtoul(part.c_str(), nullptr, 10) : 0);
    }
    return version;
}

// Returns false for a library of the wrong class (32 or 64 bits), which the search skips.
static bool is_for_this_machine(const std::string& path) {
    char header[5] = {};
    std::ifstream(path, std::ios::binary).read(header, sizeof header);
    return std::memcmp(header, "\x7f" "ELF", 4) == 0 && header[4] == (sizeof(void*) == 8 ? 2 : 1);
}

static void search(const std::string& folder, std::vector<Library>& found) {
    for (const char* pattern : {"libclang.so", "libclang-*.so", "libclang.so.*", "libclang-*.so.*"}) {
        for (const auto& path : matches(folder + "/" + pattern)) {
            auto name = path.substr(path.rfind('/') + 1);
            // Skips libclang-cpp, a different library, which graphics drivers install as well.
            if (name.find("-cpp.") != std::string::npos || !is_for_this_machine(path)) continue;
            found.push_back({path, version_of(name)});
        }
    }
}

static std::string prefix_of_llvm() {
    const char* program = std::getenv("LLVM_CONFIG_PATH");
    std::string command = std::string(program ? program : "llvm-config") + " --prefix 2> /dev/null";
    std::string prefix;
    if (FILE* pipe = popen(command.c_str(), "r")) {
        for (int c; (c = std::fgetc(pipe)) != EOF && c != '\n';) prefix += static_cast<char>(c);
        pclose(pipe);
    }
    return prefix;
}

// Returns the library with the highest version; of equal versions, the first one found.
static std::optional<Library> find_libclang() {
    std::vector<Library> found;
    if (const char* given = std::getenv("LIBCLANG_PATH")) {
        std::string path = given;
        auto slash = path.rfind('/');
        if (slash != std::string::npos && !is_folder(path)) {
            search(path.substr(0, slash), found);
            std::erase_if(found, [&](const Library& library) { return library.path != path; });
        } else {
            search(path, found);
        }
    } else {
        if (auto prefix = prefix_of_llvm(); !prefix.empty()) {
            for (const char* folder : {"/bin", "/lib", "/lib64"}) search(prefix + folder, found);
        }
        for (const char* variable : {"LD_LIBRARY_PATH", "LIBRARY_PATH"}) {
            const char* value = std::getenv(variable);
            std::istringstream folders(value ? value : "");
            for (std::string folder; std::getline(folders, folder, ':');) search(folder, found);
        }
        for (const char* pattern : {"/usr/local/llvm*/lib*", "/usr/local/lib*/*/*", "/usr/local/lib*/*", "/usr/local/lib*",
                                    "/usr/lib*/*/*", "/usr/lib*/*", "/usr/lib*"}) {
            for (const auto& folder : matches(pattern)) {
                if (is_folder(folder)) search(folder, found);
            }
        }
    }
    std::optional<Library> best;
    for (const auto& library : found) {
        if (!best || library.version > best->version) best = library;
    }
    return best;
}

// CXString of clang-c/CXString.h.
struct Text {
    const void* data;
    unsigned flags;
};

template <typename Function>
static Function function(void* library, const char* name) {
    void* found = dlsym(library, name);
    if (!found) throw std::string(dlerror());
    return reinterpret_cast<Function>(found);
}

static void parse(const std::string& path, const char* header, const std::vector<const char*>& arguments) {
    void* library = dlopen(path.c_str(), RTLD_LAZY);
    if (!library) throw std::string(dlerror());
    auto create_index = function<void* (*)(int, int)>(library, "clang_createIndex");
    auto parse_unit = function<void* (*)(void*, const char*, const char* const*, int, void*, unsigned, unsigned)>(
        library, "clang_parseTranslationUnit");
    auto count = function<unsigned (*)(void*)>(library, "clang_getNumDiagnostics");
    auto diagnostic = function<void* (*)(void*, unsigned)>(library, "clang_getDiagnostic");
    auto severity = function<int (*)(void*)>(library, "clang_getDiagnosticSeverity");
    auto format = function<Text (*)(void*, unsigned)>(library, "clang_formatDiagnostic");
    auto c_string = function<const char* (*)(Text)>(library, "clang_getCString");
    void* unit = parse_unit(create_index(0, 0), header, arguments.data(), static_cast<int>(arguments.size()), nullptr, 0, 0);
    if (!unit) throw path + " cannot parse a header";
    for (unsigned index = 0; index < count(unit); index++) {
        const int error = 3;
        void* found = diagnostic(unit, index);
        if (severity(found) >= error) throw path + ": " + c_string(format(found, 0));
    }
}

static bool has_threads() {
    std::atomic<int> answer = 0;
    std::thread([&] { answer = 42; }).join();
    return answer == 42;
}

int main(int count, char** values) try {
    std::vector<const char*> arguments(values + 1, values + count);
    if (arguments.size() == 1 && arguments[0] == std::string_view("compiler")) return has_threads() ? 0 : 1;
    if (arguments.size() < 2 || arguments[0] != std::string_view("libclang")) {
        std::cerr << "usage: needs compiler | needs libclang HEADER [ARGUMENT_OF_CLANG...]\n";
        return 2;
    }
    auto library = find_libclang();
    if (!library) throw std::string("no libclang where bindgen looks for it");
    parse(library->path, arguments[1], {arguments.begin() + 2, arguments.end()});
    std::cout << library->path << '\n';
} catch (const std::string& reason) {
    std::cerr << reason << '\n';
    return 1;
}
